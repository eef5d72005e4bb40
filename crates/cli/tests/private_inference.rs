//! From random weights to two processes: what is inferred privately is what the plan means.

mod program;

use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{Plan, ServerWeights};
use program::{Workplace, json};
use serde_json::{Value, json as value};

/// Blocks of stride 1 and 2, with and without shortcut, kept and removed.
const MASK: &str = "01001011000101010";

#[test]
fn private_logits_are_the_plans_and_traffic_is_what_was_predicted() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let pictures = [place.picture("a.png", 1), place.picture("b.png", 2)];
    for preset in ["cryptflow2", "copriv"] {
        let server = place.serve(preset, 1);
        let plan_file = format!("{preset}/plan.json");
        let infer = ["infer", "--plan", &plan_file, "--connect", &server.address, "--json"];
        let answers = place.succeed(&[&infer[..], &["a.png", "b.png"]].concat());
        assert_eq!(server.wait(), 0);

        let plan = Plan::read(&place.path(&plan_file)).expect("reads");
        let weights = place.path(&format!("{preset}/server.safetensors"));
        let weights = ServerWeights::read(&weights, &plan).expect("reads");
        let evaluator = PlanEvaluator::new(&plan, &weights).expect("they belong together");
        let predicted = json(&place.succeed(&["inspect", preset, "--json"]))["total"].clone();

        let answers: Vec<Value> = answers.lines().map(json).collect();
        assert_eq!(answers.len(), 2);
        for (number, (answer, pixels)) in answers.iter().zip(&pictures).enumerate() {
            let clear = evaluator.logits_f64(&plan.input().normalise(pixels));
            assert_eq!(answer["logits"], value!(clear), "{preset}");
            let best = (0..10).max_by(|&a, &b| clear[a].total_cmp(&clear[b]));
            assert_eq!(answer["top"][0]["class"], value!(best));
            for phase in ["offline", "online"] {
                assert_eq!(answer["comm"][phase], predicted[phase], "{preset} {phase}");
            }
            let setup = &answer["comm"]["setup"];
            if number == 0 {
                assert_eq!(setup, &predicted["setup"]);
            } else {
                assert_eq!(setup["client_to_server"], 0, "a session is set up once");
            }
        }
    }
}

#[test]
fn a_client_may_learn_the_class_alone() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let pixels = place.picture("a.png", 4);
    let compile = ["compile", "fused", "--preset", "copriv", "--set", "output=argmax"];
    place.succeed(&[&compile[..], &["--out", "class"]].concat());
    let server = place.serve("class", 2);
    let infer = ["infer", "--plan", "class/plan.json", "--connect", &server.address, "a.png"];
    let answer = json(&place.succeed(&[&infer[..], &["--json"]].concat()));
    let plan = Plan::read(&place.path("class/plan.json")).expect("reads");
    let weights = ServerWeights::read(&place.path("class/server.safetensors"), &plan);
    let weights = weights.expect("reads");
    let evaluator = PlanEvaluator::new(&plan, &weights).expect("they belong together");
    let image = plan.input().normalise(&pixels);
    let class = evaluator.class(&image).expect("that is what it reveals");
    assert_eq!(answer["top"], value!([{ "class": class, "label": null }]));
    assert_eq!(answer["logits"], value!([]));
    let logits = evaluator.logits_f64(&image);
    assert!(logits.iter().all(|&logit| logit <= logits[class]));
    let inspected = json(&place.succeed(&["inspect", "class", "--json"]));
    for phase in ["setup", "offline", "online"] {
        assert_eq!(answer["comm"][phase], inspected["total"][phase], "{phase}");
    }
    let steps = inspected["steps"].as_array().expect("steps");
    let [.., argmax, reveal] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((&argmax["op"], &argmax["bits"]), (&value!("argmax"), &value!(1)));
    let digits = &reveal["comm"]["online"]["server_to_client"];
    assert_eq!(digits, 1, "four digits in a byte");
    assert_eq!(place.succeed(&infer).trim_end(), format!("a.png\n  class {class}"));
    assert_eq!(server.wait(), 0);
}

#[test]
fn mixed_precision_runs_privately_with_transfers_and_with_lattices() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let pixels = place.picture("a.png", 3);
    for correlation in ["ot", "lattice"] {
        let setting = format!("correlation={correlation}");
        let compile = ["compile", "fused", "--preset", "fast", "--set", &setting];
        place.succeed(&[&compile[..], &["--out", correlation]].concat());
        let server = place.serve(correlation, 1);
        let plan_file = format!("{correlation}/plan.json");
        let infer = ["infer", "--plan", &plan_file, "--connect", &server.address, "--json"];
        let answer = json(&place.succeed(&[&infer[..], &["a.png"]].concat()));
        assert_eq!(server.wait(), 0);

        let plan = Plan::read(&place.path(&plan_file)).expect("reads");
        let weights = place.path(&format!("{correlation}/server.safetensors"));
        let weights = ServerWeights::read(&weights, &plan).expect("reads");
        let image = plan.input().normalise(&pixels);
        let clear = |seed| {
            let evaluator = PlanEvaluator::new(&plan, &weights).expect("they belong together");
            evaluator.with_seed(seed).logits_f64(&image)
        };
        // Truncations round at random: what chance does in the clear bounds what it does here.
        let clear: Vec<Vec<f64>> = (0..16).map(clear).collect();
        let logits = answer["logits"].as_array().expect("a list");
        assert_eq!(logits.len(), 10);
        for (place, logit) in logits.iter().enumerate() {
            let column = || clear.iter().map(|logits| logits[place]);
            let (min, max) = (column().fold(f64::MAX, f64::min), column().fold(f64::MIN, f64::max));
            let logit = logit.as_f64().expect("a number");
            let room = max - min;
            assert!((min - room..=max + room).contains(&logit), "{logit} in {min}..{max}");
        }
        let predicted = json(&place.succeed(&["inspect", correlation, "--json"]))["total"].clone();
        for phase in ["setup", "offline", "online"] {
            assert_eq!(answer["comm"][phase], predicted[phase], "{correlation} {phase}");
        }
    }
}

#[test]
fn branches_are_joined_in_fewer_rounds_and_still_bit_for_bit() {
    let place = Workplace::new();
    let init = ["init", "--network", "resnet18", "--width", "0.05", "--classes", "10"];
    place.succeed(&[&init[..], &["--resolution", "16", "--out", "net"]].concat());
    place.succeed(&["fuse", "net", "--out", "fused"]);
    let compile = |preset: &str, more: &[&str]| {
        let compile = ["compile", "fused", "--preset", preset, "--out", preset];
        place.succeed(&[&compile[..], more].concat());
        json(&place.succeed(&["inspect", preset, "--network", "wan", "--json"]))
    };
    let apart = compile("cryptflow2", &[]);
    let joined = compile("copriv", &["--network", "wan", "--set", "ot=auto"]);
    let truncations = |plan: &Value| {
        let steps = plan["steps"].as_array().expect("steps").iter();
        steps.filter(|step| step["op"] == "truncate").count()
    };
    assert_eq!(truncations(&apart) - truncations(&joined), 3, "three blocks change their shape");
    let rounds = |plan: &Value| plan["total"]["online"]["rounds"].as_u64().expect("a count");
    // A truncation of 41 bits takes seven rounds, of which it shares the first with the convolution before it.
    assert_eq!(rounds(&apart) - rounds(&joined), 3 * 6);
    let seconds = |plan: &Value| plan["seconds"]["online"].as_f64().expect("seconds");
    assert!(seconds(&joined) < seconds(&apart) && seconds(&joined) > 0.0);

    let pixels = place.picture("a.png", 5);
    let server = place.serve("copriv", 1);
    let infer = ["infer", "--plan", "copriv/plan.json", "--connect", &server.address, "--json"];
    let answer = json(&place.succeed(&[&infer[..], &["a.png"]].concat()));
    assert_eq!(server.wait(), 0);
    let plan = Plan::read(&place.path("copriv/plan.json")).expect("reads");
    let weights = place.path("copriv/server.safetensors");
    let weights = ServerWeights::read(&weights, &plan).expect("reads");
    let evaluator = PlanEvaluator::new(&plan, &weights).expect("they belong together");
    let clear = evaluator.logits_f64(&plan.input().normalise(&pixels));
    assert_eq!(answer["logits"], value!(clear));
    for phase in ["setup", "offline", "online"] {
        assert_eq!(answer["comm"][phase], joined["total"][phase], "{phase}");
    }
}

#[test]
fn what_inspect_says_of_steps_adds_up_to_its_totals() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let mut totals = Vec::new();
    for preset in ["cryptflow2", "copriv"] {
        let plan = json(&place.succeed(&["inspect", preset, "--json"]));
        assert_eq!(plan["preset"], preset);
        assert_eq!(plan["ring"], 41);
        for phase in ["setup", "offline", "online"] {
            for key in ["server_to_client", "client_to_server", "rounds"] {
                let steps = plan["steps"].as_array().expect("steps").iter();
                let sum: u64 =
                    steps.map(|step| step["comm"][phase][key].as_u64().expect("a count")).sum();
                assert_eq!(plan["total"][phase][key], sum, "{preset} {phase} {key}");
            }
        }
        let offline = &plan["total"]["offline"];
        let bytes = |key: &str| offline[key].as_u64().expect("a count");
        totals.push(bytes("server_to_client") + bytes("client_to_server"));
    }
    assert!(totals[1] < totals[0], "copriv is cheaper than cryptflow2: {totals:?}");
}

#[test]
fn equal_commands_write_equal_plans() {
    let place = Workplace::new();
    place.compile_small(MASK);
    for file in ["plan.json", "server.safetensors"] {
        let read = |folder: &str| std::fs::read(place.path(folder).join(file)).expect("reads");
        let before = read("copriv");
        place.succeed(&["compile", "fused", "--out", "again", "--preset", "copriv"]);
        assert!(before == read("again"), "{file} differs");
    }
}
