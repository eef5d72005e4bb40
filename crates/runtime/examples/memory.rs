//! How much memory a party takes for the plan of a whole ResNet-18 on images of 32x32, in the manner of CoPriv: a 41-bit ring,
//! Winograd convolutions by IKNP, faithful truncation.
//!
//! `memory [BLOCKS [WIDTH [THREADS]]]` takes so many residual blocks of each of the four stages (1 where it is not given, 2 in the
//! whole network) and so many channels in the first stage (64). It starts a second process as the server, runs one inference over
//! loopback TCP and prints each party's bytes, CPU seconds and greatest memory.

#[path = "../tests/plans/mod.rs"]
mod plans;

use copriv_ir::{Activation, ConvGeometry, Lowering, Party, Phase, Shape, ValueId, WinogradTile};
use copriv_runtime::{Channel, ClientSession, ServerSession, TcpTransport};
use plans::{Builder, Model};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(600);

/// The word that makes this process the server.
const SERVE: &str = "serve";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Blocks of each stage, channels of the first, threads of each party.
#[derive(Clone, Copy)]
struct Size {
    blocks: usize,
    width: usize,
    threads: usize,
}

fn main() -> Outcome<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match arguments.first().map(String::as_str) {
        Some(SERVE) => Some(arguments.drain(..2).next_back().unwrap_or_default()),
        _ => None,
    };
    let number = |place: usize, default| {
        arguments.get(place).map_or(Ok(default), |number| number.parse::<usize>())
    };
    let size = Size { blocks: number(0, 1)?, width: number(1, 64)?, threads: number(2, 1)? };
    match address {
        Some(address) => serve(&address, size),
        None => infer(size),
    }
}

/// The server's process.
fn serve(address: &str, size: Size) -> Outcome<()> {
    let model = resnet18(size);
    let transport = TcpTransport::new(TcpStream::connect(address)?, PATIENCE)?;
    let channel = Channel::new(transport, Party::Server)?;
    let mut session = ServerSession::accept(channel, Arc::clone(&model.plan), &model.weights)?
        .with_threads(size.threads)?;
    session.serve()?;
    report("server")
}

/// The client's process, which starts the server's.
fn infer(size: Size) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let Size { blocks, width, threads } = size;
    let mut server = Command::new(std::env::current_exe()?)
        .args([SERVE.to_owned(), listener.local_addr()?.to_string()])
        .args([blocks, width, threads].map(|number| number.to_string()))
        .spawn()?;
    // The client has the plan alone.
    let plan = resnet18(size).plan;
    let channel = Channel::new(TcpTransport::new(listener.accept()?.0, PATIENCE)?, Party::Client)?;
    let mut session = ClientSession::connect(channel, Arc::clone(&plan))?.with_threads(threads)?;
    let prepared = session.prepare(&mut |_, _, _| ())?;
    let inference = session.infer(prepared, &plans::image(&plan, 1), &mut |_, _, _| ())?;
    session.goodbye()?;
    if !server.wait()?.success() {
        return Err("the server failed".into());
    }
    report("client")?;
    let gigabytes = |phase| inference.comm().total(phase).bytes() as f64 / 1e9;
    say(&format!(
        "{} steps, {:.3} GB offline, {:.3} GB online",
        plan.steps().len(),
        gigabytes(Phase::Offline),
        gigabytes(Phase::Online)
    ));
    Ok(())
}

/// ResNet-18 with random weights.
fn resnet18(Size { blocks, width, .. }: Size) -> Model {
    let mut plan = Builder::new(Shape::new(3, 32, 32), 41, 12, 1);
    convolution(&mut plan, ConvGeometry::same(3, width, 3, 1));
    let mut value = plan.activation(Activation::Relu, 4);
    let mut channels = width;
    for stage in 0..4 {
        for block in 0..blocks {
            let (outputs, stride) = (width << stage, if stage > 0 && block == 0 { 2 } else { 1 });
            value = residual(&mut plan, value, (channels, outputs), stride);
            channels = outputs;
        }
    }
    plan.sum_pool();
    linear(&mut plan, ConvGeometry::fully_connected(channels, 100));
    plan.reveal()
}

/// Two convolutions and a shortcut, after `input`.
fn residual(
    plan: &mut Builder,
    input: ValueId,
    (inputs, outputs): (usize, usize),
    stride: usize,
) -> ValueId {
    convolution(plan, ConvGeometry::same(inputs, outputs, 3, stride));
    plan.activation(Activation::Relu, 4);
    let main = convolution(plan, ConvGeometry::same(outputs, outputs, 3, 1));
    if stride == 1 {
        plan.add(input);
    } else {
        plan.resume(input);
        convolution(plan, ConvGeometry::same(inputs, outputs, 1, stride));
        plan.add(main);
    }
    plan.activation(Activation::Relu, 4)
}

/// A linear step and the truncation to the scale before it.
fn convolution(plan: &mut Builder, geometry: ConvGeometry) -> ValueId {
    let scale = plan.fact(plan.last()).scale;
    let value = linear(plan, geometry);
    plan.truncate(plan.fact(value).scale - scale, 4)
}

/// A linear step in the lowering that CoPriv gives it, the cheaper party choosing.
fn linear(plan: &mut Builder, geometry: ConvGeometry) -> ValueId {
    let input = plan.fact(plan.last()).shape;
    let lowering = match (geometry.kernel, geometry.stride) {
        (3, 1) => Lowering::Winograd(WinogradTile::F2X2_3X3),
        (3, 2) => Lowering::WinogradStride2,
        _ => Lowering::Direct,
    };
    let chooser = match lowering.mat_mul(&geometry, input) {
        Some(product) if product.m < product.n => Party::Server,
        _ => Party::Client,
    };
    plan.linear(geometry, lowering, chooser, (12, 41))
}

/// What this process took.
fn report(who: &str) -> Outcome<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")).unwrap_or("0");
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name in brackets; user and system time are fields 14 and 15, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let cpu = fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0;
    say(&format!("{who}: {} MiB at most, {cpu:.1} CPU s", kibibytes.trim().parse::<u64>()? >> 10));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is what the example is for")]
fn say(line: &str) {
    println!("{line}");
}
