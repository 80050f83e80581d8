//! A cluster whose nodes speak IPv6 alone with each other: it forms, fails over, and heals.

use wolfpack_lab::lab::{LabOptions, PATIENCE};
use wolfpack_lab::netns::output;
use wolfpack_lab::network::Wire;
use wolfpack_lab::scenarios::Stage;

#[test]
fn a_cluster_of_ipv6_alone_fails_over() {
    if let Err(e) = wolfpack_lab::netns::requirements() {
        eprintln!("SKIPPED: {e}");
        return;
    }
    let mut say = |line: &str| eprintln!("{line}");
    let options = LabOptions { ipv6: true, ..LabOptions::default() };
    let mut stage = Stage::new(options, &mut say).unwrap();
    stage.make_cluster().unwrap();
    // Not a word of the cluster's over IPv4.
    for node in ["a", "b"] {
        let inside = stage.lab.node(node).netns().unwrap().name().to_owned();
        let sockets = output("ip", &["netns", "exec", &inside, "ss", "-Hlun"], None).unwrap();
        let own = stage.lab.node(node).host();
        let expected = format!("[{}]", Wire::Private.address_v6(own));
        assert!(sockets.contains(&expected), "{sockets}");
        assert!(!sockets.contains(&stage.lab.node(node).address(Wire::Private).to_string()));
    }
    // One network alone carries it, too.
    stage.lab.switch.fail(Wire::Private, true).unwrap();
    let at = stage.lab.power_cut("a").unwrap();
    stage.strike("the power of node a, the owner, is cut", at);
    stage.wait_moved("b", at).unwrap();
    stage.lab.switch.fail(Wire::Private, false).unwrap();
    stage.lab.power_on("a").unwrap();
    stage.lab.wait_members(&["a", "b"]).unwrap();
    for node in ["b", "a"] {
        let (_, end) = stage.lab.node(node).stop_cleanly(PATIENCE).unwrap();
        assert_eq!(end.how, "exit status: 0");
    }
}
