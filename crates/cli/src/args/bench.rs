//! `copriv bench`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub enum Bench {
    /// Correlated oblivious transfers into the ring: the kinds beside IKNP.
    Ot(Elements),
    /// ReLU: our comparisons beside CrypTFlow2's.
    Relu(Elements),
    /// Dropping fractional bits: our truncations beside CrypTFlow2's.
    Truncate(Truncation),
    /// Max pooling: our comparisons beside CrypTFlow2's.
    MaxPool(Pooling),
    /// The class with the greatest of many logits: our comparisons beside CrypTFlow2's.
    Argmax(Classes),
    /// The offline phase of a convolution: our lowerings and choosers beside CrypTFlow2's, and beside a bare
    /// copy of as many bytes.
    Conv(Convolution),
    /// Whole plans, by kind of step and beside each other.
    Plan(WholePlans),
    /// Measure how fast this machine computes, and write it with a network's link as a profile for
    /// `copriv compile --network`. Its rates of lattice work (`hint`, `products`) are taken over, not measured.
    Profile(Profile),
    /// Relay between a client and a server as slowly as a network would: both connect as usual, the
    /// client to this command.
    Link(Link),
}

/// What all measurements take.
#[derive(Args, Debug)]
pub struct Common {
    /// Also say how long each variant takes on this network, predicted and simulated: lan, wan, mobile or a TOML
    /// file.
    #[arg(long, value_name = "lan|wan|mobile|FILE.toml")]
    pub network: Option<String>,
    /// Print one JSON object a variant.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Elements {
    /// How many at once.
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub elements: usize,
    /// Bits of the ring.
    #[arg(long, value_name = "L", default_value_t = 32)]
    pub bits: u32,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args, Debug)]
pub struct Truncation {
    /// Bits to drop.
    #[arg(long, value_name = "S", default_value_t = 12)]
    pub shift: u32,
    #[command(flatten)]
    pub elements: Elements,
}

#[derive(Args, Debug)]
pub struct Pooling {
    /// Channels, pixels a side, side of the windows, stride. The border is half a window, rounded down, as in ResNets.
    #[arg(long, value_name = "C,H,R,S", default_value = "64,32,3,2")]
    pub shape: PoolShape,
    /// Bits of the ring.
    #[arg(long, value_name = "L", default_value_t = 32)]
    pub bits: u32,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args, Debug)]
pub struct Classes {
    /// How many logits.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub elements: usize,
    /// Bits of the ring.
    #[arg(long, value_name = "L", default_value_t = 32)]
    pub bits: u32,
    #[command(flatten)]
    pub common: Common,
}

/// `C,H,R,S`.
#[derive(Clone, Copy, Debug)]
pub struct PoolShape {
    pub channels: usize,
    pub side: usize,
    pub kernel: usize,
    pub stride: usize,
}

impl std::str::FromStr for PoolShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [channels, side, kernel, stride] = numbers(text, "four whole numbers C,H,R,S")?;
        Ok(Self { channels, side, kernel, stride })
    }
}

/// Numbers between commas.
fn numbers<const N: usize>(text: &str, expected: &str) -> Result<[usize; N], String> {
    let numbers: Result<Vec<usize>, _> =
        text.split(',').map(|number| number.trim().parse()).collect();
    let numbers = numbers.ok().and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| format!("expected {expected}"))
}

#[derive(Args, Debug)]
pub struct Convolution {
    /// Input channels, output channels, pixels a side, kernel, stride.
    #[arg(long, value_name = "C,K,H,R,S", default_value = "64,64,32,3,1")]
    pub shape: ConvShape,
    /// Bits of the ring.
    #[arg(long, value_name = "L", default_value_t = 32)]
    pub bits: u32,
    /// Bits of the weights where the protocol can make use of that.
    #[arg(long, value_name = "W", default_value_t = 8)]
    pub weight_bits: u32,
    #[command(flatten)]
    pub common: Common,
}

/// `C,K,H,R,S`.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    pub inputs: usize,
    pub outputs: usize,
    pub side: usize,
    pub kernel: usize,
    pub stride: usize,
}

impl std::str::FromStr for ConvShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [inputs, outputs, side, kernel, stride] =
            numbers(text, "five whole numbers C,K,H,R,S")?;
        Ok(Self { inputs, outputs, side, kernel, stride })
    }
}

#[derive(Args, Debug)]
pub struct WholePlans {
    /// Folders made by `copriv compile`, a baseline first.
    #[arg(value_name = "PLANDIR", required = true)]
    pub plans: Vec<PathBuf>,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Args, Debug)]
pub struct Profile {
    /// The link: lan, wan, mobile or a TOML file.
    #[arg(long, value_name = "lan|wan|mobile|FILE.toml", default_value = "lan")]
    pub network: String,
    /// ReLUs to measure transfers by; the fewer, the more of silent transfers' bulk is wasted.
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub elements: usize,
    /// File to write; printed if not given.
    #[arg(long, value_name = "FILE.toml")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Link {
    /// Address that clients connect to; port 0 takes a free one (printed).
    #[arg(long, value_name = "ADDR")]
    pub listen: String,
    /// Address of the server.
    #[arg(long, value_name = "ADDR")]
    pub connect: String,
    /// The network to be as slow as: lan, wan, mobile or a TOML file.
    #[arg(long, value_name = "lan|wan|mobile|FILE.toml")]
    pub network: String,
    /// Stop after this many connections.
    #[arg(long, value_name = "N")]
    pub sessions: Option<usize>,
}
