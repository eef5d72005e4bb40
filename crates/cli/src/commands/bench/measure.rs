//! Both parties of a plan in this process, and what each step costs them together.

use super::model::Model;
use super::usage::{Moment, Spent, Waits, peak_memory, reset_peak_memory};
use crate::commands::serve::PATIENCE;
use anyhow::{Result, anyhow, ensure};
use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{CommTable, NetworkProfile, Party, Phase, StepId};
use copriv_runtime::link::SimulatedTransport;
use copriv_runtime::{
    Channel, ClientSession, Inference, RuntimeError, ServerSession, TcpTransport,
};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// What one inference of a plan cost both parties together.
pub struct Measured {
    spent: BTreeMap<(StepId, Phase), Spent>,
    /// As measured, and equal to what the plan predicts.
    pub comm: CommTable,
    /// Most bytes that the process had in memory: both parties, and the model.
    pub peak: Option<u64>,
}

impl Measured {
    /// What a step cost in a phase.
    pub fn spent(&self, step: StepId, phase: Phase) -> Spent {
        self.spent.get(&(step, phase)).copied().unwrap_or_default()
    }
}

/// Runs one inference over loopback TCP, each party on so many threads.
///
/// # Errors
/// Where a party fails, the logits are further than `tolerance` from those in the clear, or the traffic is not
/// what the plan predicts.
pub fn run(model: &Model, tolerance: u64, threads: usize) -> Result<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    let end = |stream, party| Channel::new(TcpTransport::new(stream, PATIENCE)?, party);
    let channels = (end(far, Party::Server)?, end(near, Party::Client)?);
    reset_peak_memory();
    let waits = Waits::of(&channels.0, &channels.1);
    let mut clock = StepClock { waits, spent: BTreeMap::new(), current: None };
    let inference = converse(model, channels, threads, |mut session| {
        clock.start();
        let prepared = session.prepare(&mut |phase, step, _| clock.at(phase, step))?;
        clock.stop();
        clock.start();
        let mut progress = |phase, step, _| clock.at(phase, step);
        let inference = session.infer(prepared, &model.image, &mut progress)?;
        clock.stop();
        session.goodbye()?;
        Ok(inference)
    })?;
    let peak = peak_memory();
    check(model, &inference, tolerance)?;
    Ok(Measured { spent: clock.spent, comm: inference.comm().clone(), peak })
}

/// Seconds of the offline and the online phase on a simulated link on which computing takes no time.
///
/// # Errors
/// Where a party fails.
pub fn simulate(model: &Model, network: &NetworkProfile) -> Result<[f64; 2]> {
    let (server, client) = SimulatedTransport::pair(network);
    let clocks = [server.clock(), client.clock()];
    let now = || clocks.iter().map(|clock| clock.elapsed().as_secs_f64()).fold(0.0, f64::max);
    let channels = (Channel::new(server, Party::Server)?, Channel::new(client, Party::Client)?);
    converse(model, channels, 1, |mut session| {
        let setup = clocks[1].elapsed().as_secs_f64();
        let prepared = session.prepare(&mut |_, _, _| ())?;
        let offline = now();
        session.infer(prepared, &model.image, &mut |_, _, _| ())?;
        let online = now();
        session.goodbye()?;
        Ok([offline - setup, online - offline])
    })
}

/// A session of the model's plan: `act` as the client, a server on a thread.
fn converse<T>(
    model: &Model,
    (server, client): (Channel, Channel),
    threads: usize,
    act: impl FnOnce(ClientSession) -> Result<T, RuntimeError>,
) -> Result<T> {
    thread::scope(|scope| {
        let serve = || {
            ServerSession::accept(server, Arc::clone(&model.plan), &model.weights)?
                .with_threads(threads)?
                .serve()
        };
        let server = thread::Builder::new().name("server".into()).spawn_scoped(scope, serve)?;
        let begin = || {
            let session = ClientSession::connect(client, Arc::clone(&model.plan))?;
            let mut session = session.with_threads(threads)?;
            if let Some(hint) = &model.hint {
                session.set_hint(Arc::clone(hint))?;
            }
            act(session)
        };
        let acted = begin();
        let served = server.join().map_err(|_| anyhow!("the server panicked"))?;
        match (acted, served) {
            (Ok(acted), Ok(_)) => Ok(acted),
            // Whoever failed first tells the other, who then knows less.
            (
                Err(RuntimeError::PeerAborted { .. } | RuntimeError::ConnectionLost { .. }),
                Err(error),
            )
            | (Err(error), _)
            | (_, Err(error)) => Err(error.into()),
        }
    })
}

/// Holds an inference to the plan's clear-text meaning and its predicted traffic.
fn check(model: &Model, inference: &Inference, tolerance: u64) -> Result<()> {
    let clear = PlanEvaluator::new(&model.plan, &model.weights)?.run(&model.image);
    let found = inference.fixed_point();
    ensure!(clear.len() == found.len(), "{} logits in place of {}", found.len(), clear.len());
    for (place, (clear, found)) in clear.iter().zip(found).enumerate() {
        ensure!(
            clear.abs_diff(*found) <= tolerance,
            "wrong result at {place}: {found}, but {clear} in the clear"
        );
    }
    if let Some((step, phase, found, expected)) =
        inference.comm().first_difference(&model.plan.predicted_comm())
    {
        return Err(anyhow!("step {} {phase}: {found:?} in place of {expected:?}", step.0));
    }
    Ok(())
}

/// Books time on the step that goes on, as the client's progress tells.
struct StepClock {
    waits: Waits,
    spent: BTreeMap<(StepId, Phase), Spent>,
    current: Option<(Moment, Option<(StepId, Phase)>)>,
}

impl StepClock {
    /// From here on time belongs to the first step that is named.
    fn start(&mut self) {
        self.current = Some((Moment::now(&self.waits), None));
    }

    /// A step begins or goes on.
    fn at(&mut self, phase: Phase, step: StepId) {
        let Some((since, before)) = self.current else { return };
        if before == Some((step, phase)) {
            return;
        }
        match before {
            None => self.current = Some((since, Some((step, phase)))),
            Some(_) => {
                self.stop();
                self.current = Some((Moment::now(&self.waits), Some((step, phase))));
            }
        }
    }

    /// The last step is over.
    fn stop(&mut self) {
        if let Some((since, Some(step))) = self.current.take() {
            *self.spent.entry(step).or_default() += Moment::now(&self.waits).since(since);
        }
    }
}

/// Seconds that a bare copy of so many bytes takes over the same kind of connection.
///
/// # Errors
/// Where the connection fails.
pub fn copy_seconds(bytes: u64) -> Result<f64> {
    const BLOCK: usize = 256 << 10;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    let start = Instant::now();
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> std::io::Result<()> {
            let block = vec![0; BLOCK];
            let mut left = bytes;
            while left > 0 {
                let now = left.min(BLOCK as u64);
                near.write_all(&block[..now as usize])?;
                left -= now;
            }
            Ok(())
        });
        let mut block = vec![0; BLOCK];
        while far.read(&mut block)? > 0 {}
        writer.join().map_err(|_| anyhow!("the writer panicked"))??;
        Ok(start.elapsed().as_secs_f64())
    })
}
