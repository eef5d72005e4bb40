//! `copriv report` shows what it was given, and nothing else.

mod program;

use program::{Workplace, json};

const MASK: &str = "01010101010101010";

#[test]
fn a_report_holds_every_plan_network_and_accuracy() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let evaluation = r#"{"artefact":"copriv","dataset":"d","split":"test","count":8,"top1":0.25,"top5":0.5,"loss":1.5}"#;
    std::fs::write(place.path("copriv/eval.json"), evaluation).expect("writes");
    place.succeed(&["report", "fused", "copriv", "cryptflow2", "--out", "page.html"]);

    let data = data_of(&place, "page.html");
    let plans = data["plans"].as_array().expect("a list");
    assert_eq!(plans.len(), 2);
    for plan in plans {
        let name = plan["name"].as_str().expect("a name");
        assert_eq!(plan["plan"], json(&place.succeed(&["inspect", name, "--json"])));
        let steps = plan["plan"]["steps"].as_array().expect("a list");
        assert_eq!(plan["blocks"].as_array().map(Vec::len), Some(steps.len()));
    }
    assert_eq!(plans[0]["accuracy"]["top1"], 0.25);
    assert!(plans[1]["accuracy"].is_null());

    let network = &data["networks"][0];
    assert_eq!(network["mask"], format!("1{MASK}1"));
    let blocks = network["blocks"].as_array().expect("a list");
    let kept: Vec<_> = blocks.iter().filter_map(|block| block["kept"].as_bool()).collect();
    assert_eq!(
        kept.iter().map(|&kept| if kept { '1' } else { '0' }).collect::<String>(),
        format!("1{MASK}1")
    );
    assert!(blocks.iter().all(|block| !block["layers"].as_array().expect("a list").is_empty()));

    // The same, given as the folder that holds everything; and the same bytes whenever it is made.
    place.succeed(&["report", ".", "--out", "whole.html"]);
    let whole = data_of(&place, "whole.html");
    assert_eq!(whole["plans"].as_array().map(Vec::len), Some(2));
    place.succeed(&["report", "fused", "copriv", "cryptflow2", "--out", "again.html"]);
    let page = |name: &str| std::fs::read(place.path(name)).expect("reads");
    assert_eq!(page("page.html"), page("again.html"));
}

#[test]
fn a_report_of_nothing_or_of_damage_fails() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("empty")).expect("a folder");
    assert!(place.fail(&["report", "empty"]).contains("no training run"));
    assert!(place.fail(&["report", "nowhere"]).contains("nowhere"));
    std::fs::write(place.path("metrics.jsonl"), "{\"kind\":\"epoch\"}\n").expect("writes");
    let error = place.fail(&["report", "metrics.jsonl"]);
    assert!(error.contains("metrics.jsonl line 1"), "{error}");
    std::fs::write(place.path("notes.txt"), "words").expect("writes");
    assert!(place.fail(&["report", "notes.txt"]).contains("notes.txt"));
    assert!(!place.path("report.html").exists());
}

fn data_of(place: &Workplace, page: &str) -> serde_json::Value {
    let page = std::fs::read_to_string(place.path(page)).expect("reads");
    let (_, rest) =
        page.split_once("<script id=\"data\" type=\"application/json\">").expect("has data");
    json(rest.split_once("</script>").expect("ends").0)
}
