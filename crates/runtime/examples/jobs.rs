//! What single jobs cost beside a bare copy of their bytes over the same kind of socket.
//!
//! `jobs [NAME [THREADS [REPEATS]]]` runs the jobs whose names begin with NAME, one inference after the other in one session between
//! two parties over loopback TCP, and prints the bytes, the CPU seconds of both parties together, the process's peak memory, and the
//! throughput next to that of a plain copy. Set-up is not counted.

#[path = "../tests/plans/mod.rs"]
mod plans;

use copriv_ir::{Activation, ConvGeometry, Lowering, OtKind, Party, Phase, Shape, WinogradTile};
use copriv_runtime::{Channel, TcpTransport};
use plans::{Builder, Model, session_on};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Its name, how many things it makes, and its plan.
type Job = (String, usize, Box<dyn Fn() -> Model>);

fn jobs() -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for kind in OtKind::ALL {
        let transfers = 1 << 22;
        jobs.push((
            format!("ot-{kind}"),
            transfers,
            Box::new(move || transfers_of(kind, transfers)),
        ));
    }
    let numbers = 65_536;
    let comparisons = [
        (OtKind::Iknp, 4),
        (OtKind::SoftSpoken4, 4),
        (OtKind::Silent, 4),
        (OtKind::Silent, 3),
        (OtKind::Silent, 2),
    ];
    for (kind, leaf) in comparisons {
        let relu = move || {
            on_shares(numbers, kind, &|plan| {
                plan.activation(Activation::Relu, leaf);
            })
        };
        jobs.push((format!("relu-{kind}-{leaf}"), numbers, Box::new(relu)));
        let truncate = move || {
            on_shares(numbers, kind, &|plan| {
                plan.truncate(12, leaf);
            })
        };
        jobs.push((format!("truncate-{kind}-{leaf}"), numbers, Box::new(truncate)));
    }
    let (server, client) = (Party::Server, Party::Client);
    let wide = ConvGeometry::same(64, 64, 3, 1);
    let winograd = Lowering::Winograd(WinogradTile::F2X2_3X3);
    let convolutions = [
        ("conv-weights", OtKind::Iknp, wide, 32, Lowering::Direct, server, (32, 8)),
        (
            "conv-weights-softspoken4",
            OtKind::SoftSpoken4,
            wide,
            32,
            Lowering::Direct,
            server,
            (32, 8),
        ),
        ("conv-mask", OtKind::Iknp, wide, 32, Lowering::Direct, client, (32, 32)),
        ("conv-copriv", OtKind::Iknp, wide, 32, winograd, client, (41, 41)),
        (
            "conv-short",
            OtKind::Iknp,
            ConvGeometry::same(128, 128, 3, 1),
            4,
            winograd,
            client,
            (41, 41),
        ),
    ];
    for (name, kind, geometry, side, lowering, chooser, (bits, weight_bits)) in convolutions {
        let input = Shape::new(geometry.in_channels, side, side);
        let model = move || {
            let mut plan = Builder::new(input, bits, 4, 1);
            plan.ot = kind;
            plan.linear(geometry, lowering, chooser, (weight_bits.min(30) - 6, weight_bits));
            plan.reveal()
        };
        jobs.push((name.to_owned(), geometry.multiplications(input) as usize, Box::new(model)));
    }
    jobs
}

/// Correlated transfers in `Z_2^32`: the bits of weights, the server's choices, times a vector.
fn transfers_of(kind: OtKind, transfers: usize) -> Model {
    let inner = 1024;
    let mut plan = Builder::new(Shape::vector(inner), 32, 4, 1);
    plan.ot = kind;
    plan.linear(
        ConvGeometry::fully_connected(inner, transfers / 8 / inner),
        Lowering::Direct,
        Party::Server,
        (8, 8),
    );
    plan.reveal()
}

/// Something on random shares of numbers of 32 bits.
fn on_shares(numbers: usize, kind: OtKind, step: &dyn Fn(&mut Builder)) -> Model {
    let mut plan = Builder::new(Shape::new(1, numbers, 1), 32, 28, 1);
    plan.linear(ConvGeometry::same(1, 1, 1, 1), Lowering::Direct, Party::Server, (2, 2));
    plan.ot = kind;
    step(&mut plan);
    plan.reveal()
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let mut number = || arguments.next().map_or(Ok(1), |number| number.parse());
    let (threads, repeats) = (number()?, number()?);
    for job in jobs().iter().filter(|job| job.0.starts_with(&wanted)) {
        measure(job, threads, repeats)?;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is what the example is for")]
fn measure((name, count, model): &Job, threads: usize, repeats: usize) -> Outcome<()> {
    let spent = run(&model(), threads, repeats)?;
    let mebibytes = |phase: usize| spent.bytes[phase] as f64 / f64::from(1 << 20);
    let rate = (count * repeats) as f64 / 1e6 / spent.cpu.iter().sum::<f64>();
    let bare = copy_seconds(spent.bytes[0])?;
    println!(
        "{name}: {:.2} + {:.2} MiB, CPU of both {:.3} + {:.3} s, {rate:.3} M per CPU s; offline {:.2} s, \
         {:.0} % of a bare copy's throughput; {} MiB at most",
        mebibytes(0),
        mebibytes(1),
        spent.cpu[0] / repeats as f64,
        spent.cpu[1] / repeats as f64,
        spent.offline / repeats as f64,
        100.0 * bare * repeats as f64 / spent.offline,
        peak_mebibytes()?,
    );
    Ok(())
}

/// What the inferences of a session cost: bytes of one, CPU seconds of all offline and online, wall seconds offline.
struct Spent {
    bytes: [u64; 2],
    cpu: [f64; 2],
    offline: f64,
}

fn run(model: &Model, threads: usize, repeats: usize) -> Outcome<Spent> {
    let (server, client) = connected()?;
    let channels = (
        Channel::new(TcpTransport::new(server, PATIENCE)?, Party::Server)?,
        Channel::new(TcpTransport::new(client, PATIENCE)?, Party::Client)?,
    );
    let image = plans::image(&model.plan, 1);
    let (served, spent) = session_on(threads, model, channels, |mut session| {
        let mut spent = Spent { bytes: [0; 2], cpu: [0.0; 2], offline: 0.0 };
        for _ in 0..repeats {
            let start = cpu_seconds();
            let prepared = session.prepare(&mut |_, _, _| ())?;
            let prepared_at = cpu_seconds();
            let inference = session.infer(prepared, &image, &mut |_, _, _| ())?;
            spent.cpu[0] += prepared_at - start;
            spent.cpu[1] += cpu_seconds() - prepared_at;
            spent.offline += inference.seconds(Phase::Offline);
            spent.bytes =
                [Phase::Offline, Phase::Online].map(|p| inference.comm().total(p).bytes());
        }
        session.goodbye()?;
        Ok(spent)
    });
    served?;
    Ok(spent?)
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

/// CPU seconds of this process so far, as Linux tells them: of all threads, in nanoseconds each.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let statistics = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Most memory that this process had at once.
fn peak_mebibytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")).unwrap_or("0");
    Ok(kibibytes.trim().parse::<u64>()? >> 10)
}
