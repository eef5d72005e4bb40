//! What a compilation says of itself.

mod support;

use copriv_compiler::{Calibration, CompileConfig, Preset, compile};
use copriv_ir::{Architecture, Network, Phase, cost};

#[test]
fn the_report_shows_every_way_and_the_one_taken() {
    let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("a usual size");
    let model = support::random_network(&network, true);
    let calibration = Calibration::from_noise(&model, 3, 2).expect("finite");
    let mut config = CompileConfig::new(Preset::CoPriv);
    config.set("lowering", "auto").expect("known");
    let compiled = compile(&model, &calibration, &config).expect("compiles");
    let (plan, report) = (&compiled.plan, &compiled.report);
    let comm = cost::plan(plan);
    for choice in &report.choices {
        let (_, _, taken) = choice.ways[choice.taken.expect("oblivious transfer")];
        assert_eq!(taken, comm.traffic(choice.step, Phase::Offline).bytes(), "{}", choice.layer);
        let cheapest = choice.ways.iter().map(|way| way.2).min();
        // A little more offline may save more online: Winograd's truncation is dearer.
        assert!(taken as f64 <= 1.1 * cheapest.unwrap_or_default() as f64, "{}", choice.layer);
    }
    assert_eq!(report.ranges.len(), plan.steps().len());
    let tightest = report.tightest().expect("has steps");
    assert!(tightest.needed <= 41);
    let text = report.to_string();
    assert_eq!(text.lines().count(), report.choices.len() + report.overflows.len() + 1);
    assert!(text.contains(" *winograd F(4x4,3x3), server chooses: "), "{text}");
    assert!(text.contains(&format!("tightest: {} needs", tightest.layer)), "{text}");
}
