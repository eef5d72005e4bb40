//! Seconds to fuse whole ImageNet networks, all gates removed, and how far fused logits are from unfused.
//!
//! `cargo run --release -p copriv-reparam --example fusing_time`

use copriv_ir::{Architecture, BatchNormInit, Checkpoint, Gates, Network};
use copriv_reparam::{FuseConfig, fuse_equalised, fuse_with, verify_random};
use std::io::Write as _;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for architecture in [Architecture::MobileNetV2, Architecture::ResNet50] {
        let network = Network::new(architecture, 1.0, 1000, 224)?;
        let residual = network.graph().blocks().iter().filter(|block| block.is_residual).count();
        let gates = Gates::from_mask(&network, &"0".repeat(residual))?;
        let made = Checkpoint::initialise(network.clone(), 1, BatchNormInit::Random);
        let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
        let checkpoint = Checkpoint::new(network, gates, tensors, provenance)?;

        let start = Instant::now();
        fuse_with(&checkpoint, &FuseConfig::default())?;
        let fusing = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let (equalised, report) = fuse_equalised(&checkpoint, &FuseConfig::default(), 8)?;
        let equalising = start.elapsed().as_secs_f64();
        let verification = verify_random(&checkpoint, &equalised, 1, 0);
        let mut out = std::io::stdout();
        writeln!(
            out,
            "{architecture}: fused in {fusing:.2} s, equalised and fused in {equalising:.2} s"
        )?;
        writeln!(out, "  {verification}\n  {report}")?;
    }
    Ok(())
}
