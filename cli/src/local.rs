//! Commands that need no service: the cluster key and the check of a configuration.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use wolfpack_types::config::Config;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// The length of the cluster key.
const KEY_BYTES: usize = 32;

fn failed(act: &str, path: &Path, e: &io::Error) -> Failure {
    let exit = match e.kind() {
        io::ErrorKind::NotFound => Exit::Unknown,
        io::ErrorKind::AlreadyExists => Exit::Invalid,
        _ => Exit::Internal,
    };
    Failure::new(exit, format!("cannot {act} {}: {e}", path.display()), "")
}

/// Makes a new cluster key.
pub(crate) fn generate_key(path: &Path, output: &mut Output) -> Result<(), Failure> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key)
        .map_err(|e| Failure::new(Exit::Internal, format!("no entropy: {e}"), ""))?;
    let mut text: String = key.iter().map(|b| format!("{b:02x}")).collect();
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(
        |e| match e.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                Exit::Invalid,
                format!("{} exists already; a key is never overwritten", path.display()),
                "a running cluster needs its key: move the file away only if you are sure",
            ),
            _ => failed("create", path, &e),
        },
    )?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        drop(file);
        // Half a key is worse than none; the write error is the one to report.
        let _ = fs::remove_file(path);
        return Err(failed("write", path, &e));
    }
    let shown = path.display();
    output.local(
        &json!({ "reply": "key", "file": path }),
        &format!("a new cluster key is in {shown}; copy it to the same place on every node"),
    )
}

/// Checks a configuration file.
pub(crate) fn check_config(path: &Path, output: &mut Output) -> Result<(), Failure> {
    let text = fs::read_to_string(path).map_err(|e| failed("read", path, &e))?;
    let config = Config::parse(&text)
        .map_err(|e| Failure::new(Exit::Invalid, format!("{}: {e}", path.display()), ""))?;
    let budget = config.times.budget();
    let report = format!(
        "{} is good: node '{}' of {}, quorum type {}\n{budget}",
        path.display(),
        config.name,
        config.nodes.values().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "),
        config.quorum,
    );
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let value = json!({
        "reply": "config",
        "node": config.name,
        "detect_ms": millis(budget.detect),
        "regroup_ms": millis(budget.regroup),
        "lease_ms": millis(budget.lease),
        "margin_ms": millis(budget.margin),
        "failover_ms": millis(budget.failover),
    });
    output.local(&value, &report)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.key");
        generate_key(&path, &mut Output::new(true)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 65);
        assert!(text.trim_end().chars().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let err = generate_key(&path, &mut Output::new(true)).unwrap_err();
        assert_eq!(err.exit, Exit::Invalid);
        assert!(err.what.contains("never overwritten"), "{}", err.what);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_bad_configuration_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let err = check_config(&path, &mut Output::new(true)).unwrap_err();
        assert_eq!(err.exit, Exit::Unknown);
        fs::write(&path, "node = = 1\n").unwrap();
        let err = check_config(&path, &mut Output::new(true)).unwrap_err();
        assert_eq!(err.exit, Exit::Invalid);
        assert!(err.what.contains("node.toml") && err.what.contains("line 1"), "{}", err.what);
    }
}
