//! Inferences prepared ahead: `prepare`, then `infer --store`, with processes killed in between.

mod program;

use copriv_ir::evaluate::PlanEvaluator;
use copriv_ir::{Plan, ServerWeights};
use program::{Workplace, json};
use serde_json::{Value, json as value};
use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

const MASK: &str = "01001011000101010";
const SERVE: [&str; 2] = ["--store", "server-store"];

/// Ids and sizes of the records in a store.
fn held(place: &Workplace, store: &str) -> Vec<(String, u64)> {
    let listed = json(&place.succeed(&["inspect", store, "--json"]));
    let records = listed["records"].as_array().expect("a list");
    let record = |record: &Value| {
        let id = record["record"].as_str().expect("an id").to_owned();
        (id, record["bytes"].as_u64().expect("a size"))
    };
    assert_eq!(listed["count"], records.len());
    records.iter().map(record).collect()
}

#[test]
fn prepared_inferences_take_online_traffic_alone_and_survive_kills() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let pixels = place.picture("a.png", 1);
    let plan = Plan::read(&place.path("copriv/plan.json")).expect("reads");
    let weights = place.path("copriv/server.safetensors");
    let weights = ServerWeights::read(&weights, &plan).expect("reads");
    let evaluator = PlanEvaluator::new(&plan, &weights).expect("they belong together");
    let clear = evaluator.logits_f64(&plan.input().normalise(&pixels));
    let predicted = json(&place.succeed(&["inspect", "copriv", "--json"]));

    let server = place.serve_with("copriv", &SERVE);
    let at = |address: &str, command: &[&str]| {
        let connect = ["--plan", "copriv", "--connect", address, "--store", "client-store"];
        [command, &connect[..]].concat().iter().map(|&word| word.to_owned()).collect::<Vec<_>>()
    };
    let words = at(&server.address, &["prepare", "--count", "4", "--json"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let prepared: Vec<Value> = place.succeed(&words).lines().map(json).collect();
    assert_eq!(prepared.len(), 4);
    for kept in &prepared {
        assert_eq!(kept["bytes"], predicted["record"]);
        assert_eq!(kept["comm"]["offline"], predicted["total"]["offline"]);
        assert_eq!(kept["comm"]["online"]["client_to_server"], 0);
    }
    assert_eq!(prepared[0]["comm"]["setup"], predicted["total"]["setup"]);
    for (store, party) in [("server-store", "server"), ("client-store", "client")] {
        let held = held(&place, store);
        let ids: HashSet<_> = held.iter().map(|(id, _)| id.as_str()).collect();
        let expected = prepared.iter().map(|kept| kept["record"].as_str().expect("an id"));
        assert_eq!(ids, expected.collect());
        assert!(held.iter().all(|(_, bytes)| predicted["record"][party] == *bytes));
    }

    let infer = |address: &str| {
        let words = at(address, &["infer", "--json", "a.png"]);
        json(&place.succeed(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let check = |answer: &Value| {
        assert_eq!(answer["logits"], value!(clear));
        assert_eq!(answer["comm"]["online"], predicted["total"]["online"]);
        for direction in ["server_to_client", "client_to_server"] {
            assert_eq!(answer["comm"]["offline"][direction], 0);
            assert_eq!(answer["comm"]["setup"][direction], 48, "the handshake");
        }
    };
    check(&infer(&server.address));

    // A client and then the server are killed at work.
    let words = at(&server.address, &["infer", "a.png"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut client =
        place.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(60));
    client.kill().expect("it is ours");
    client.wait().expect("it ends");
    drop(server);
    let server = place.serve_with("copriv", &[&SERVE[..], &["--sessions", "4"]].concat());
    let left = held(&place, "client-store");
    assert!((2..=3).contains(&left.len()), "{left:?}");
    let foreign = ["--plan", "cryptflow2", "--connect", &server.address, "--store", "client-store"];
    let error = place.fail(&[&["infer", "a.png"], &foreign[..]].concat());
    assert!(error.contains("different plans"), "{error}");
    for _ in 0..2 {
        check(&infer(&server.address));
    }
    let words = at(&server.address, &["infer", "a.png"]);
    let outcome = place.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    if left.len() == 2 {
        assert_eq!(outcome.status, 1);
        assert!(outcome.stderr.contains("copriv prepare"), "{}", outcome.stderr);
    } else {
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    }
    assert_eq!(held(&place, "client-store"), []);
    std::fs::write(place.path("client-store/bad.record"), "no record").expect("writes");
    let listed = json(&place.succeed(&["inspect", "client-store", "--json"]));
    assert!(listed["unreadable"][0].as_str().is_some_and(|error| error.contains("bad.record")));

    let plain = place.serve("copriv", 1);
    let words = at(&plain.address, &["infer", "a.png"]);
    let error = place.fail(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("keeps no store"), "{error}");
}
