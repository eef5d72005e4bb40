//! `copriv bench link`: a slow network between two processes.

use crate::args::bench::Link;
use crate::format;
use crate::terminal::Terminal;
use anyhow::{Context as _, Result, anyhow, ensure};
use copriv_ir::NetworkProfile;
use copriv_runtime::link::relay;
use std::net::{TcpListener, TcpStream};
use std::thread;

pub fn run(args: &Link, terminal: &Terminal) -> Result<()> {
    ensure!(args.sessions != Some(0), "--sessions must be at least 1");
    let network = NetworkProfile::open(&args.network)?;
    let listener = TcpListener::bind(&args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    terminal.say(&network);
    terminal.data(format_args!("listening on {}", listener.local_addr()?))?;
    thread::scope(|scope| {
        let mut relays = Vec::new();
        for client in listener.incoming().take(args.sessions.unwrap_or(usize::MAX)) {
            let client = client.context("a connection failed before it began")?;
            let server = TcpStream::connect(&args.connect)
                .with_context(|| format!("cannot connect to {}", args.connect))?;
            let network = &network;
            relays.push(scope.spawn(move || carry(&client, &server, network, terminal)));
        }
        for relay in relays {
            relay.join().map_err(|_| anyhow!("a relay panicked"))?;
        }
        Ok(())
    })
}

fn carry(client: &TcpStream, server: &TcpStream, network: &NetworkProfile, terminal: &Terminal) {
    match relay(client, server, network) {
        Ok([up, down]) => {
            let [up, down] = [up, down].map(format::bytes);
            terminal.say(format_args!("{up} up, {down} down"));
        }
        Err(error) => terminal.warn(format_args!("a connection broke: {error}")),
    }
}
