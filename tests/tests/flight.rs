//! The flight recorder of real services: the lives of a failover run again in a core without network,
//! disk or clock, and take the same turns.

use wolfpack_lab::lab::{LabOptions, PATIENCE};
use wolfpack_lab::scenarios::{GROUP, Stage};
use wolfpack_sim::replay::replay;

/// The first parts of the lives that a node has recorded, oldest first.
fn recordings(stage: &Stage<'_>, node: &str) -> Vec<(String, Vec<u8>)> {
    let dir = stage.lab.node(node).dir().join("state/flight");
    let mut found: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .filter(|(name, _)| name.ends_with("-00000.flight"))
        .collect();
    found.sort();
    found
}

#[test]
fn a_recorded_failover_runs_again_without_a_difference() {
    if let Err(e) = wolfpack_lab::netns::requirements() {
        eprintln!("SKIPPED: {e}");
        return;
    }
    let mut say = |line: &str| eprintln!("{line}");
    let mut stage = Stage::new(LabOptions::default(), &mut say).unwrap();
    stage.make_cluster().unwrap();
    let at = stage.lab.power_cut("a").unwrap();
    stage.strike("the power of node a, the owner, is cut", at);
    stage.wait_moved("b", at).unwrap();
    stage.lab.power_on("a").unwrap();
    stage.lab.wait_members(&["a", "b"]).unwrap();
    for node in ["b", "a"] {
        let (_, end) = stage.lab.node(node).stop_cleanly(PATIENCE).unwrap();
        assert_eq!(end.how, "exit status: 0");
    }
    // The life of a that lost its power, a's next one, and b's only one.
    for (node, lives) in [("a", 2), ("b", 1)] {
        let recordings = recordings(&stage, node);
        assert_eq!(recordings.len(), lives, "lives of node {node}");
        for (n, (name, bytes)) in recordings.iter().enumerate() {
            let report = replay(bytes, true).unwrap();
            eprintln!("{node}: {name}: {} steps in {:?}", report.steps, report.span);
            assert_eq!(report.difference, None, "{node}: {name}");
            assert!(report.steps > 50, "{node}: {name} has {} steps only", report.steps);
            assert_eq!(report.damage, None, "{node}: {name}");
            let clean = n + 1 == lives;
            assert_eq!(report.end.is_some(), clean, "{node}: {name}: {:?}", report.end);
            let moved = report.lines.iter().any(|l| l.contains(GROUP) && l.contains("was lost"));
            assert!(moved || node == "a", "the story of {node}: {:#?}", report.lines);
        }
    }
}
