//! `scripts/sweep.sh`, as batch schedulers call it.

mod program;

use program::{Workplace, sample};
use std::process::Command;

const CONFIG: &str = r#"
batch_size = 16
network = { name = "resnet20", width = 0.1 }
data = { name = "cifar100_sample", train_limit = 32, test_limit = 20 }
search = { epochs = 1, learning_rate = 0.02, importance = { images = 16, calibration_batches = 1 } }
finetune = { epochs = 1, learning_rate = 0.02 }
"#;

fn script(place: &Workplace, arguments: &[&str]) -> (i32, String) {
    script_with(place, arguments, &[])
}

/// With further variables, or others.
fn script_with(place: &Workplace, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let output = Command::new("bash")
        .arg(format!("{root}/scripts/sweep.sh"))
        .args(arguments)
        .current_dir(place.path("."))
        .envs([("COPRIV", env!("CARGO_BIN_EXE_copriv")), ("CONFIG", "tiny.toml"), ("OUT", "runs")])
        .envs([("METHODS", "copriv dp"), ("BUDGETS", "0.6 0.3"), ("SEEDS", "1 2")])
        .env("DATA", sample())
        .envs(variables.iter().copied())
        .output()
        .expect("there is a shell");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it was not killed"), text.into_owned())
}

#[test]
fn points_are_trained_gone_on_with_and_gathered() {
    let place = Workplace::new();
    std::fs::write(place.path("tiny.toml"), CONFIG).expect("writes");
    let (_, count) = script(&place, &["count"]);
    assert_eq!(count.trim(), "8");
    let (_, list) = script(&place, &["list"]);
    assert_eq!(list.lines().nth(5), Some("5 dp-0.6-seed2"));
    let (_, command) = script(&place, &["run", "5", "--dry-run"]);
    for part in ["tiny.toml", "search.method=dp", "search.budget=0.6", "seed=2"] {
        assert!(command.contains(part), "{command}");
    }
    assert!(!command.contains("--resume") && !place.path("runs").exists());
    for number in ["0", "5"] {
        let (status, text) = script(&place, &["run", number]);
        assert_eq!(status, 0, "{text}");
    }
    let (_, command) = script(&place, &["run", "5", "--dry-run"]);
    assert!(command.contains("--resume"), "{command}");
    assert_eq!(script(&place, &["gather"]).0, 0);
    let page = std::fs::read_to_string(place.path("runs/report.html")).expect("written");
    assert!(page.contains("copriv-0.6-seed1") && page.contains("dp-0.6-seed2"));
    assert_eq!(script(&place, &["run", "8"]).0, 2);
    assert_eq!(script(&place, &["walk"]).0, 2);
}

#[test]
fn a_sweep_over_bytes_is_not_bound_by_the_fraction_of_the_configuration() {
    let place = Workplace::new();
    let config = CONFIG.replace("search = {", "search = { budget = 0.1,");
    std::fs::write(place.path("tiny.toml"), config).expect("writes");
    let bytes = [("BUDGET_KEY", "search.budget_bytes"), ("BUDGETS", "1e12"), ("SEEDS", "1")];
    for (number, method) in ["copriv", "dp"].into_iter().enumerate() {
        let (status, text) = script_with(&place, &["run", &number.to_string()], &bytes);
        assert_eq!(status, 0, "{text}");
        let folder = place.path("runs").join(format!("{method}-1e12-seed1"));
        let config = std::fs::read_to_string(folder.join("config.toml")).expect("written");
        assert!(
            config.contains("budget = 1.0") && config.contains("budget_bytes = 1000000000000.0"),
            "{config}"
        );
    }
    // What is set by hand comes last and holds; what is no limit leaves the file's alone.
    let (_, command) = script_with(
        &place,
        &["run", "0", "--dry-run"],
        &[bytes[0], ("SETTINGS", "search.budget=0.5")],
    );
    assert!(command.find("search.budget=1 ") < command.find("search.budget=0.5"), "{command}");
    let (_, command) =
        script_with(&place, &["run", "0", "--dry-run"], &[("BUDGET_KEY", "search.mu")]);
    assert!(!command.contains("search.budget="), "{command}");
}
