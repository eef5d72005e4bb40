//! Activations in part, from training to two processes: what is inferred privately is what the plan means, and the plan
//! activates what the search left.

mod program;

use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{Checkpoint, Plan, ServerWeights};
use program::{Workplace, json, sample};
use serde_json::json as value;

const CONFIG: &str = r#"
seed = 5
batch_size = 16
network = { name = "mobilenet_v2", width = 0.05 }
data = { name = "cifar100_sample", train_limit = 96, test_limit = 16 }
search = { gates = "layers", budget = 0.4, epochs = 8, learning_rate = 0.02, alpha_learning_rate = 0.1, \
penalty = { weight = 3e-4 }, importance = { images = 16, calibration_batches = 1 } }
finetune = { epochs = 1, learning_rate = 0.02 }
distillation = { teacher = "unpruned" }
"#;

#[test]
fn searches_among_channels_and_values_lead_to_private_answers() {
    let place = Workplace::new();
    std::fs::write(place.path("train.toml"), CONFIG.replace("\\\n", "")).expect("writes");
    let (data, pixels) = (sample(), place.picture_of("a.png", 32, 7));
    for (method, granularity, preset) in [
        ("snl", "channel", "copriv"),
        ("snl", "pixel", "copriv"),
        ("senet", "pixel", "cryptflow2"),
        ("senet", "channel", "copriv"),
    ] {
        let run = format!("{method}-{granularity}");
        let [method_setting, granularity_setting] =
            [format!("search.method={method}"), format!("search.granularity={granularity}")];
        let mut train = vec!["train", "train.toml", "--data", &data, "--out", &run];
        train.extend(["--set", &method_setting, "--set", &granularity_setting]);
        if method == "senet" {
            train.extend(["--set", "search.epochs=1"]);
        }
        place.succeed(&train);
        let [trained, fused, plan_folder] =
            ["last.safetensors", "fused", "plan"].map(|name| format!("{run}/{name}"));
        let checkpoint = Checkpoint::read(&place.path(&trained)).expect("reads");
        assert!(!checkpoint.gates().parts().is_empty(), "{run}");
        let graph = checkpoint.network().graph();
        let left: usize = graph.nodes().iter().map(|node| checkpoint.gates().activated(node)).sum();
        let whole: usize = graph
            .blocks()
            .iter()
            .map(|block| {
                let nodes = graph.nodes()[block.nodes.clone()].iter();
                nodes
                    .filter(|node| matches!(node.op, copriv_ir::Op::Activation(_)))
                    .map(|node| node.shape.elements())
                    .sum::<usize>()
            })
            .sum();
        assert!(left > 0 && left as f64 <= 0.4 * whole as f64, "{run}: {left} of {whole}");

        place.succeed(&["fuse", &trained, "--out", &fused, "--verify", "2"]);
        let shown = json(&place.succeed(&["inspect", &trained, "--json"]));
        assert_eq!(shown["blocks"]["total"]["after"]["relus"], left);
        assert!(
            place.succeed(&["inspect", &fused]).contains(&format!("activation by {granularity}"))
        );
        let compile = ["compile", &fused, "--out", &plan_folder, "--preset", preset];
        let calibrate = ["--calibrate", "cifar100_sample", "--data", &data];
        place.succeed(&[&compile[..], &calibrate].concat());

        let inspected = json(&place.succeed(&["inspect", &plan_folder, "--json"]));
        let steps = inspected["steps"].as_array().expect("steps");
        let counts = steps.iter().filter_map(|step| step["activated"].as_u64());
        assert_eq!(counts.sum::<u64>(), left as u64, "{run}");
        let plan = Plan::read(&place.path(&format!("{plan_folder}/plan.json"))).expect("reads");
        let weights = place.path(&format!("{plan_folder}/server.safetensors"));
        let weights = ServerWeights::read(&weights, &plan).expect("reads");

        let server = place.serve(&plan_folder, 1);
        let plan_file = format!("{plan_folder}/plan.json");
        let infer = ["infer", "--plan", &plan_file, "--connect", &server.address, "--json"];
        let answer = json(&place.succeed(&[&infer[..], &["a.png"]].concat()));
        assert_eq!(server.wait(), 0);
        let evaluator = PlanEvaluator::new(&plan, &weights).expect("they belong together");
        let clear = evaluator.logits_f64(&plan.input().normalise(&pixels));
        assert_eq!(answer["logits"], value!(clear), "{run}, bit for bit");
        for phase in ["setup", "offline", "online"] {
            assert_eq!(answer["comm"][phase], inspected["total"][phase], "{run} {phase}");
        }
    }
    // All of them, and what became of them, on one page.
    place.succeed(&["report", ".", "--out", "report.html"]);
    let page = std::fs::read_to_string(place.path("report.html")).expect("written");
    for method in ["snl", "senet"] {
        assert!(page.contains(&format!("\"method\":\"{method}\"")), "{method}");
    }
    assert!(page.contains("ReLU ") && page.contains(" of "), "counts of each layer");
}
