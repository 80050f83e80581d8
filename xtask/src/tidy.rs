//! The house rules that no compiler checks, as a test: every file says what it is, none is too
//! long, nothing is left unfinished, every `unsafe` says why it is sound.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// No file may be longer.
const LINES_MAX: usize = 800;
/// Marks of unfinished work. Put together so that this file does not find itself.
const MARKS: [&str; 6] = [
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("dbg", "!("),
    concat!("unimplemented", "!("),
    concat!("allow(", "dead_code)"),
];

/// Everything untidy below `root`, as `file:line: what`.
///
/// # Errors
/// A file or directory cannot be read.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        match String::from_utf8(bytes) {
            Ok(text) => {
                found.extend(check(&text).into_iter().map(|(n, p)| format!("{name}:{n}: {p}")))
            }
            Err(_) => found.push(format!("{name}:1: is not UTF-8")),
        }
    }
    Ok(found)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !name.starts_with("target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Checks one file: line numbers from 1 on, and what is wrong there.
fn check(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    if !lines.first().is_some_and(|l| l.starts_with("//! ")) {
        found.push((1, "does not open with `//! ` and what it is".into()));
    }
    if lines.len() > LINES_MAX {
        found.push((LINES_MAX + 1, format!("has {} lines, more than {LINES_MAX}", lines.len())));
    }
    for (i, line) in lines.iter().enumerate() {
        for mark in MARKS.iter().filter(|m| line.contains(**m)) {
            found.push((i + 1, format!("'{mark}' is a mark of unfinished work")));
        }
        if opens_unsafe(line) && !explained(&lines[..i]) {
            found.push((i + 1, "`unsafe` without a `// SAFETY:` comment above it".into()));
        }
    }
    found
}

fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    // Put together so that this line does not find itself.
    [concat!("unsafe", " {"), concat!("unsafe", " impl")].iter().any(|u| code.contains(u))
}

/// Whether a SAFETY comment stands directly above, with nothing but comments, attributes and the
/// beginning of the same statement between.
fn explained(above: &[&str]) -> bool {
    for line in above.iter().rev().take(12).map(|l| l.trim()) {
        if line.contains("SAFETY:") {
            return true;
        }
        let same = line.starts_with("//") || line.starts_with("#[") || !line.ends_with([';', '}']);
        if !same || line.is_empty() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let found = problems(crate::step::root()).unwrap();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn untidy_things_are_found() {
        let what = |text: &str| check(text).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(what("//! A file.\nfn f() {}\n"), Vec::<usize>::new());
        assert_eq!(what("fn f() {}\n"), [1]);
        assert_eq!(what(&format!("//! A file.\n{}(x);\n", concat!("dbg", "!"))), [2]);
        assert_eq!(what("//! A file.\nlet a = 1;\nlet x = unsafe { f() };\n"), [3]);
        assert_eq!(
            what("//! A file.\n// SAFETY: so.\nlet x = unsafe { f() };\n"),
            Vec::<usize>::new()
        );
        assert_eq!(what(&format!("//! A file.\n{}", "\n".repeat(LINES_MAX))), [LINES_MAX + 1]);
    }
}
