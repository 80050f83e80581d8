//! `wolfpack key rotate-step`: rewrites this node's cluster key file for one step of a change of the
//! key. The service reads it when told to ('wolfpack key reload'); nothing else is done here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use wolfpack_netdrv::ClusterKey;

use crate::args::RotateStep;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Takes the step in `file` towards the key in `new`.
pub(crate) fn step(
    step: RotateStep,
    new: &Path,
    file: &Path,
    output: &mut Output,
) -> Result<(), Failure> {
    let (text, present) = read(file)?;
    let (new_text, _) = read(new)?;
    let wanted = first(&new_text);
    if new_text.lines().count() != 1 {
        let what = format!("{} holds more than one new key", new.display());
        return Err(Failure::new(Exit::Invalid, what, "make it with 'wolfpack key generate'"));
    }
    let used = first(&text);
    let also = text.lines().find_map(|line| line.strip_prefix("also ")).map(str::to_lowercase);
    let target = match (step, also) {
        (RotateStep::Accept, None) if used != wanted => Some((&used, Some(&wanted))),
        (RotateStep::Switch, Some(also)) if also == wanted => Some((&wanted, Some(&used))),
        (RotateStep::Finish, Some(_)) if used == wanted => Some((&wanted, None)),
        // Taken already.
        (RotateStep::Accept, Some(also)) if also == wanted => None,
        (RotateStep::Switch, Some(_)) | (RotateStep::Finish, None) if used == wanted => None,
        _ => {
            let what = format!(
                "{} does not stand where this step begins: nothing was changed",
                file.display()
            );
            let advice = "the steps are accept, switch, finish, with the same new key; see \
                          'wolfpack key --help'";
            return Err(Failure::new(Exit::Invalid, what, advice));
        }
    };
    if let Some((used, also)) = target {
        let also = also.map_or_else(String::new, |key| format!("also {key}\n"));
        let text = format!("{used}\n{also}cluster {}\n", present.cluster_id());
        replace(file, &text).map_err(|e| {
            let what = format!("cannot write {}: {e}", file.display());
            Failure::new(Exit::Internal, what, "the file is as it was")
        })?;
    }
    let shown = file.display();
    let text = match target {
        Some(_) => format!("{shown} is written; now 'wolfpack key reload' on this node"),
        None => format!("{shown} has taken this step already"),
    };
    output
        .local(&json!({ "reply": "rotate-step", "file": file, "changed": target.is_some() }), &text)
}

/// A key file that the service would take, and its text.
fn read(path: &Path) -> Result<(String, ClusterKey), Failure> {
    let failed = |what: String| Failure::new(Exit::Invalid, what, "nothing was changed");
    let key = ClusterKey::load(path).map_err(|e| failed(e.to_string()))?;
    let text = fs::read_to_string(path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    Ok((text, key))
}

fn first(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_lowercase()
}

/// Replaces the file as a whole: a power cut leaves the one or the other.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    // What a step that was cut short has left there.
    match fs::remove_file(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The write error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn three_steps_bring_the_new_key_and_keep_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("key"), dir.path().join("new-key"));
        let (old_key, new_key) = ("AB".repeat(32), "cd".repeat(32));
        secret(&file, &format!("{old_key}\n"));
        secret(&new, &format!("{new_key}\n"));
        let id = ClusterKey::load(&file).unwrap().cluster_id();
        let old_key = old_key.to_lowercase();
        let take = |s| step(s, &new, &file, &mut Output::new(true));
        let steps = [
            (RotateStep::Accept, format!("{old_key}\nalso {new_key}\ncluster {id}\n")),
            (RotateStep::Switch, format!("{new_key}\nalso {old_key}\ncluster {id}\n")),
            (RotateStep::Finish, format!("{new_key}\ncluster {id}\n")),
        ];
        for early in [RotateStep::Switch, RotateStep::Finish] {
            assert_eq!(take(early).unwrap_err().exit, Exit::Invalid, "{early:?}");
        }
        for (s, text) in &steps {
            for again in [false, true] {
                take(*s).unwrap();
                assert_eq!(fs::read_to_string(&file).unwrap(), *text, "{s:?}, again: {again}");
                assert_eq!(ClusterKey::load(&file).unwrap().cluster_id(), id);
            }
            if *s == RotateStep::Accept {
                take(RotateStep::Finish).unwrap_err();
            }
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        take(RotateStep::Accept).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("key"), dir.path().join("new-key"));
        secret(&file, &("ab".repeat(32) + "\n"));
        secret(&new, &("cd".repeat(32) + "\n"));
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
        let e = step(RotateStep::Accept, &new, &file, &mut Output::new(true)).unwrap_err();
        assert!(e.what.contains("chmod 600"), "{}", e.what);
    }
}
