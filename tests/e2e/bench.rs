//! The benchmark itself, as small as it gets: no figure counts, only that it measures.

use std::process::Command;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");

/// The benchmark runs a row against a daemon of its own, finds that everything acknowledged arrived, and writes what scripts
/// read.
#[test]
fn the_benchmark_measures_and_writes_its_figures() {
    // The temporary directory may be in memory, which it refuses.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let json = directory.path().join("figures.json");
    let output = Command::new(BENCH)
        .args(["--quick", "--scale", "0.01", "--only", "e2e_1", "--data"])
        .arg(directory.path())
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let (table, progress) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{progress}");
    assert!(table.contains("| `e2e_1` "), "{table}");
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let figure = figures.as_array().unwrap().iter().find(|figure| figure["name"] == "e2e_1").unwrap();
    for field in ["value", "yardstick", "ratio"] {
        assert!(figure[field].as_f64().unwrap() > 0.0, "{figures:#}");
    }
    assert_eq!(figure["unit"], "deliveries/s");
}
