//! Starts that must come to nothing, each with its words and its exit code, by the real program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"
node = "a"
cluster_key = "{dir}/key"
state_dir = "{dir}/state"
run_dir = "{dir}/run"
quorum = "majority"
[[network]]
name = "lo"
interface = "lo"
[[peer]]
id = 1
name = "a"
addresses = {{ lo = "127.0.0.1" }}
"#
    )
}

/// A directory with a good configuration and key.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node.toml"), config(dir.path())).unwrap();
    let key = dir.path().join("key");
    fs::write(&key, "ab".repeat(32) + "\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

fn run(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wolfpackd"))
        .arg("--config")
        .arg(dir.join("node.toml"))
        .args(more)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_good_configuration_is_checked_without_starting() {
    let dir = prepared();
    let output = run(dir.path(), &["--check"]);
    assert_ends(&output, 0, "time budget after a power cut");
    assert!(!dir.path().join("state").exists(), "--check made a store");
}

#[test]
fn wrong_configurations_and_keys() {
    let dir = prepared();
    let good = config(dir.path());
    let file = dir.path().join("node.toml");

    fs::write(&file, good.replace("id = 1", "id = = 1")).unwrap();
    assert_ends(&run(dir.path(), &[]), 78, "line 11");
    fs::write(&file, good.replace("id = 1", "id = 99")).unwrap();
    assert_ends(&run(dir.path(), &[]), 78, "99");
    let short = "quorum = \"majority\"\n[times]\nlease_ms = 700";
    fs::write(&file, good.replace("quorum = \"majority\"", short)).unwrap();
    assert_ends(&run(dir.path(), &[]), 78, "lease L");
    fs::remove_file(&file).unwrap();
    assert_ends(&run(dir.path(), &[]), 78, "node.toml");
    fs::write(&file, good).unwrap();

    let key = dir.path().join("key");
    fs::write(&key, "too short\n").unwrap();
    assert_ends(&run(dir.path(), &[]), 78, "64 hexadecimal digits");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_ends(&run(dir.path(), &[]), 78, "chmod 600");
    fs::remove_file(&key).unwrap();
    let missing = format!("there is no cluster key {}: make it", key.display());
    assert_ends(&run(dir.path(), &[]), 78, &missing);
    assert!(!dir.path().join("state").exists(), "a store was made before everything was checked");
}

#[test]
fn a_store_in_use_or_damaged() {
    let dir = prepared();
    let state = dir.path().join("state");
    let open = wolfpack_store::Store::open(&state).unwrap();
    let words = format!("another wolfpackd (pid {}) runs on this node", std::process::id());
    assert_ends(&run(dir.path(), &[]), 69, &words);
    drop(open);
    fs::write(state.join("record"), b"nonsense").unwrap();
    assert_ends(&run(dir.path(), &[]), 65, "the store is damaged");
}
