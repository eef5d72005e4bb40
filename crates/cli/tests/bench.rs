//! `copriv bench` at tiny sizes: results are right, bytes are the cost model's, the JSON has its keys.

mod program;

use copriv_ir::{Activation, Comparison, OtKind, PoolWindow, Ring, Shape, cost};
use program::{Workplace, json};
use serde_json::Value;

/// The objects that a bench prints.
fn bench(place: &Workplace, arguments: &[&str]) -> Vec<Value> {
    let output = place.succeed(&[&["bench"], arguments, &["--json"]].concat());
    let rows: Vec<Value> = output.lines().map(json).collect();
    for row in &rows {
        let keys = |value: &Value| -> Vec<String> {
            value.as_object().expect("an object").keys().cloned().collect()
        };
        let expected = [
            "bytes",
            "cpu_seconds",
            "job",
            "params",
            "peak_memory",
            "per_cpu_second",
            "phases",
            "rounds",
            "seconds",
            "variant",
        ];
        let mut found = keys(row);
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(row["job"], arguments[0]);
        for counts in ["bytes", "rounds"] {
            let mut found = keys(&row[counts]);
            found.sort();
            assert_eq!(found, ["offline", "online"]);
        }
        assert!(row["seconds"].is_f64() && row["cpu_seconds"].is_f64());
        let sum = |key: &str| -> f64 {
            let seconds = |phase: &str| row["phases"][phase][key].as_f64().expect("a number");
            seconds("offline") + seconds("online")
        };
        assert!(sum("seconds") >= row["seconds"].as_f64().expect("a number"));
        assert!(sum("cpu_seconds") >= row["cpu_seconds"].as_f64().expect("a number"));
        for (phase, party) in [
            ("offline", "server"),
            ("offline", "client"),
            ("online", "server"),
            ("online", "client"),
        ] {
            let waited = row["phases"][phase]["waiting"][party].as_f64();
            assert!(waited.is_some_and(|waited| waited >= 0.0), "{row}");
        }
        assert!(row["per_cpu_second"].as_f64().is_some_and(|rate| rate > 0.0));
    }
    rows
}

#[test]
fn jobs_print_the_cost_models_bytes_beside_a_baseline() {
    let place = Workplace::new();
    let rows = bench(&place, &["relu", "--elements", "100", "--bits", "20"]);
    let comparison = Comparison { ot: OtKind::Iknp, leaf_bits: 4, tables: false };
    let ring = Ring::new(20).expect("in range");
    let (offline, online) = cost::activation(Activation::Relu, ring, 100, &comparison);
    assert!(rows[0]["variant"].as_str().is_some_and(|name| name.starts_with("cryptflow2")));
    assert_eq!(rows[0]["bytes"]["offline"], offline.traffic.bytes());
    assert_eq!(rows[0]["bytes"]["online"], online.bytes());
    assert_eq!(rows[0]["rounds"]["online"], online.traffic().rounds);
    let tables = rows.iter().filter(|row| row["variant"].to_string().contains("one-time tables"));
    let online = |row: &Value| row["bytes"]["online"].as_u64().expect("a number");
    assert!(tables.clone().count() > 1 && tables.clone().all(|row| online(row) < online(&rows[0])));

    let rows = bench(&place, &["ot", "--elements", "3000", "--bits", "9"]);
    let elements = rows[0]["params"]["elements"].as_u64().expect("a number");
    assert!((3000..3000 + 8 * 1024).contains(&elements), "whole rows of weights of 8 bits");
    assert_eq!(rows[0]["variant"], "iknp");
    assert!(
        rows[0]["bytes"]["offline"]
            .as_u64()
            .is_some_and(|bytes| bytes >= elements * (8 * 128 + 44) / 64)
    );

    let rows = bench(&place, &["argmax", "--elements", "50", "--bits", "20"]);
    let (offline, online) = cost::argmax(ring, 50, &comparison);
    assert_eq!(rows[0]["bytes"]["offline"], offline.traffic.bytes());
    assert_eq!(rows[0]["bytes"]["online"], online.bytes());
    let rows = bench(&place, &["max-pool", "--shape", "3,8,3,2", "--bits", "20"]);
    let window = PoolWindow { kernel: 3, stride: 2, padding: 1 };
    let (offline, online) = cost::max_pool(window, Shape::new(3, 8, 8), ring, &comparison);
    assert_eq!(rows[0]["bytes"]["offline"], offline.traffic.bytes());
    assert_eq!(rows[0]["bytes"]["online"], online.bytes());
    assert!(rows.len() > 1);

    let rows = bench(&place, &["truncate", "--elements", "50", "--bits", "16", "--shift", "5"]);
    assert!(rows.len() > 1);
    let shape = ["conv", "--shape", "3,4,8,3,1", "--bits", "24", "--weight-bits", "4"];
    let rows = bench(&place, &shape);
    let offline = |row: &Value| row["bytes"]["offline"].as_u64().expect("a number");
    assert!(rows[1..].iter().any(|row| offline(row) < offline(&rows[0]) / 4), "{rows:?}");
    let lattice = rows.iter().find(|row| row["variant"].to_string().contains("lattice"));
    let lattice = lattice.expect("beside transfers");
    assert!(lattice["params"]["hint_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!(
        (&lattice["rounds"]["offline"], &lattice["rounds"]["online"]),
        (&1.into(), &1.into())
    );
    let reply = rows.iter().find(|row| row["variant"].to_string().contains("with a reply"));
    let reply = reply.expect("beside the hint");
    assert_eq!(
        (&reply["params"]["hint_bytes"], &reply["rounds"]["offline"]),
        (&Value::Null, &2.into())
    );
    assert!(offline(reply) > offline(lattice));
}

#[test]
fn a_whole_plan_is_split_by_kind_of_step() {
    let place = Workplace::new();
    place.compile_small("01001011000101010");
    let rows = bench(&place, &["plan", "copriv", "--network", "lan"]);
    let total = json(&place.succeed(&["inspect", "copriv", "--json"]))["total"].clone();
    for phase in ["offline", "online"] {
        let way = |way: &str| total[phase][way].as_u64().expect("a number");
        let expected = way("server_to_client") + way("client_to_server");
        assert_eq!(rows[0]["bytes"][phase], expected);
        assert_eq!(rows[0]["rounds"][phase], total[phase]["rounds"]);
        let network = &rows[0]["params"]["network"];
        assert_eq!(network["name"], "lan");
        for seconds in ["predicted_seconds", "simulated_seconds"] {
            assert!(network[seconds][phase].as_f64().is_some_and(|seconds| seconds > 0.0));
        }
    }
    let fast = ["compile", "fused", "--preset", "fast", "--set", "output=argmax", "--out", "fast"];
    place.succeed(&fast);
    let rows = bench(&place, &["plan", "cryptflow2", "copriv", "fast"]);
    let all = |row: &Value| {
        let bytes = |phase: &str| row["bytes"][phase].as_u64().expect("a number");
        bytes("offline") + bytes("online")
    };
    assert_eq!(rows.len(), 3);
    assert!(all(&rows[1]) < all(&rows[0]) && all(&rows[2]) < all(&rows[1]), "{rows:?}");
    let table = place.succeed(&["bench", "plan", "copriv"]);
    assert!(
        ["linear", "relu", "truncate", "total"].iter().all(|kind| table.contains(kind)),
        "{table}"
    );
}

#[test]
fn inferences_pass_through_a_slow_link() {
    let place = Workplace::new();
    place.compile_small("01001011000101010");
    place.picture("a.png", 1);
    let server = place.serve("copriv", 1);
    let link = place.link(&server.address, "lan");
    let infer =
        ["infer", "--plan", "copriv/plan.json", "--connect", &link.address, "--json", "a.png"];
    let answer = json(&place.succeed(&infer));
    assert_eq!(answer["top"].as_array().map(Vec::len), Some(5));
    assert_eq!(link.wait(), 0);
    assert_eq!(server.wait(), 0);
}

#[test]
fn bad_requests_are_refused() {
    let place = Workplace::new();
    let error = place.fail(&["bench", "relu", "--elements", "8", "--network", "moon"]);
    assert!(error.contains("lan, wan, mobile"), "{error}");
    place.fail(&["bench", "relu", "--elements", "0"]);
    place.fail(&["bench", "relu", "--elements", "8", "--bits", "65"]);
    place.fail(&["bench", "conv", "--shape", "0,0,0,0,0"]);
    place.fail(&["bench", "max-pool", "--shape", "1,2,0,1"]);
    place.fail(&["bench", "argmax", "--elements", "0"]);
    std::fs::write(place.path("n.toml"), "client_to_server = 1e6").expect("writes");
    let error = place.fail(&["bench", "ot", "--elements", "8", "--network", "n.toml"]);
    assert!(error.contains("server_to_client"), "{error}");
}
