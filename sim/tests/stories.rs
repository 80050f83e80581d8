//! The stories of `sim/stories/` are what the cluster does. After a change that is meant, write them
//! anew with `WOLFPACK_BLESS=1 cargo test -p wolfpack-sim --test stories`, and read the difference.

use std::path::Path;

use wolfpack_sim::tales;

#[test]
fn every_story_is_told_as_before() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("stories");
    let bless = std::env::var_os("WOLFPACK_BLESS").is_some();
    let mut wrong = Vec::new();
    for tale in tales::ALL {
        let told = tale.tell().unwrap_or_else(|why| panic!("{}: {why}", tale.name));
        let file = dir.join(format!("{}.txt", tale.name));
        if bless {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&file, &told).unwrap();
            continue;
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some((k, (old, new))) =
            kept.lines().zip(told.lines()).enumerate().find(|(_, (old, new))| old != new)
        {
            wrong.push(format!("{} line {}: was '{old}', is '{new}'", tale.name, k + 1));
        } else if kept.lines().count() != told.lines().count() {
            wrong.push(format!("{}: it has another end, or none is kept", tale.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "told otherwise (WOLFPACK_BLESS=1 writes anew):\n{}",
        wrong.join("\n")
    );
}
