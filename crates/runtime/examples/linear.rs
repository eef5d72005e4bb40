//! What a linear step costs beside a bare copy of its bytes over the same kind of socket.
//!
//! `linear [CASE [THREADS]]` prepares one convolution between two parties over loopback TCP and prints the bytes, the
//! CPU seconds of both parties, and the throughput next to that of a plain copy.

#[path = "../tests/plans/mod.rs"]
mod plans;

use copriv_ir::{ConvGeometry, Lowering, Party, Phase, Shape, WinogradTile};
use copriv_runtime::{Channel, TcpTransport};
use plans::{Builder, Model, session_on};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Name, convolution, map, lowering, chooser, bits of the ring and of the weights' factors.
type Case = (&'static str, ConvGeometry, usize, Lowering, Party, (u32, u32));

fn cases() -> Vec<Case> {
    let (server, client) = (Party::Server, Party::Client);
    let wide = ConvGeometry::same(64, 64, 3, 1);
    let winograd = Lowering::Winograd(WinogradTile::F2X2_3X3);
    vec![
        ("weights", wide, 32, Lowering::Direct, server, (32, 8)),
        ("mask", wide, 32, Lowering::Direct, client, (32, 32)),
        ("copriv", wide, 32, winograd, client, (41, 41)),
        ("short", ConvGeometry::same(128, 128, 3, 1), 4, winograd, client, (41, 41)),
    ]
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next();
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    for case in cases() {
        if wanted.as_deref().is_none_or(|wanted| wanted == case.0) {
            measure(&case, threads)?;
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is what the example is for")]
fn measure(case: &Case, threads: usize) -> Outcome<()> {
    let &(name, geometry, side, lowering, chooser, (bits, weight_bits)) = case;
    let mut plan = Builder::new(Shape::new(geometry.in_channels, side, side), bits, 4, 1);
    plan.linear(geometry, lowering, chooser, (weight_bits.min(30) - 6, weight_bits));
    let model = plan.reveal();
    let before = cpu_seconds()?;
    let (bytes, seconds) = prepare(&model, threads)?;
    let cpu = cpu_seconds()? - before;
    let bare = copy_seconds(bytes)?;
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    println!(
        "{name}: {geometry} {lowering}, {bits} bits, {chooser} chooses {weight_bits} bits: {mebibytes:.1} MiB, \
         {cpu:.2} CPU s of both, {:.0} MiB per CPU s; {seconds:.2} s, {:.0} % of a bare copy's throughput",
        mebibytes / cpu,
        100.0 * bare / seconds
    );
    Ok(())
}

/// Prepares one inference: bytes and wall seconds.
fn prepare(model: &Model, threads: usize) -> Outcome<(u64, f64)> {
    let (server, client) = connected()?;
    let channels = (
        Channel::new(TcpTransport::new(server, PATIENCE)?, Party::Server)?,
        Channel::new(TcpTransport::new(client, PATIENCE)?, Party::Client)?,
    );
    let (served, inference) = session_on(threads, model, channels, |mut session| {
        let prepared = session.prepare(&mut |_, _, _| ())?;
        let image = plans::image(&model.plan, 1);
        let inference = session.infer(prepared, &image, &mut |_, _, _| ())?;
        session.goodbye()?;
        Ok(inference)
    });
    served?;
    let inference = inference?;
    let bytes = inference.comm().total(Phase::Offline).bytes();
    Ok((bytes, inference.seconds(Phase::Offline)))
}

/// Wall seconds to move so many bytes over a socket and throw them away.
fn copy_seconds(bytes: u64) -> Outcome<f64> {
    let (mut from, mut to) = connected()?;
    let start = Instant::now();
    let writer = thread::spawn(move || -> std::io::Result<()> {
        let chunk = vec![7; 256 << 10];
        let mut left = bytes as usize;
        while left > 0 {
            let now = left.min(chunk.len());
            from.write_all(&chunk[..now])?;
            left -= now;
        }
        Ok(())
    });
    let mut chunk = vec![0; 256 << 10];
    while to.read(&mut chunk)? > 0 {}
    writer.join().map_err(|_| "the writer failed")??;
    Ok(start.elapsed().as_secs_f64())
}

fn connected() -> Outcome<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener.accept()?.0, client))
}

/// CPU seconds of this process so far, as Linux tells them.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name in brackets; user and system time are fields 14 and 15, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0)
}
