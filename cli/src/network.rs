//! Networks, interfaces and paths as text. Pure.

use wolfpack_types::api::{DelayStatus, InterfaceStatus, NetworkStatus, PathDetail};

use crate::table::{Table, clean};

/// Gaps shown of a path; all of them are in `--json`.
const GAPS_SHOWN: usize = 4;

fn state(state: Option<impl ToString>) -> String {
    state.map_or_else(|| "not judged yet".to_owned(), |state| state.to_string())
}

/// `network status`.
pub(crate) fn networks(networks: &[NetworkStatus], delays: &DelayStatus) -> String {
    let mut table = Table::new(&["NETWORK", "STATE", "INTERFACES", "WHY"]);
    for network in networks {
        let interfaces = network.interfaces.iter();
        let interfaces: Vec<String> =
            interfaces.map(|i| format!("{} {}", i.node, state(i.state))).collect();
        table.row(&[&network.name, &state(network.state), &interfaces.join(", "), &network.why]);
    }
    let mut out = table.render(0);
    for interface in networks.iter().flat_map(|n| &n.interfaces).filter(|i| !i.why.is_empty()) {
        out.push_str(&format!(
            "interface of {} on {}: {}\n",
            clean(&interface.node),
            clean(&interface.network),
            clean(&interface.why)
        ));
    }
    if networks.iter().any(|n| !n.paths.is_empty()) {
        out.push_str(&format!("\n{}", paths(networks)));
    }
    out.push_str(&format!("\n{}\n", driver(delays)));
    out
}

/// How late the driver runs, and whether that is well.
fn driver(delays: &DelayStatus) -> String {
    let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    let verdict = if delays.worst_us > delays.allowed_us {
        "TOO SLOW FOR THE TIMES IN FORCE"
    } else {
        "well"
    };
    format!(
        "This node's network driver ran at most {} late in the last minutes ({} since its start); \
         {} are allowed: {verdict}",
        ms(delays.worst_us),
        ms(delays.worst_ever_us),
        ms(delays.allowed_us)
    )
}

fn paths(networks: &[NetworkStatus]) -> String {
    let mut table = Table::new(&[
        "PATH TO",
        "OVER",
        "STATE",
        "SILENT",
        "LOSS",
        "ROUND TRIP",
        "JITTER",
        "LOST",
        "RECEIVED",
        "NEWEST LAST (x: MISSED)",
    ]);
    let mut gaps = String::new();
    for (network, path) in networks.iter().flat_map(|n| n.paths.iter().map(move |p| (n, p))) {
        let round_trip = path.round_trip.map_or_else(String::new, |r| us(r.smoothed_us));
        table.row(&[
            &path.node,
            &network.name,
            if path.up { "up" } else { "DOWN" },
            &format!("{} ms", path.silence_ms),
            &format!("{}.{} %", path.loss_permille / 10, path.loss_permille % 10),
            &round_trip,
            &us(path.jitter_us),
            &path.lost.to_string(),
            &path.received.to_string(),
            &path.history,
        ]);
        if let Some(line) = gap_line(path) {
            let (node, network) = (clean(&path.node), clean(&network.name));
            gaps.push_str(&format!("  {node} over {network}: {line}\n"));
        }
    }
    let mut out = table.render(0);
    if !gaps.is_empty() {
        out.push_str(&format!("\nLast gaps\n{gaps}"));
    }
    out
}

fn gap_line(path: &PathDetail) -> Option<String> {
    let one = |gap: &wolfpack_types::api::GapStatus| {
        format!("{} missed in {} ms, {} s ago", gap.missed, gap.silence_ms, gap.ago_ms / 1000)
    };
    let gaps: Vec<String> = path.gaps.iter().rev().take(GAPS_SHOWN).map(one).collect();
    (!gaps.is_empty()).then(|| gaps.join("; "))
}

fn us(us: u64) -> String {
    if us < 1000 { format!("{us} us") } else { format!("{}.{} ms", us / 1000, us % 1000 / 100) }
}

/// `network-interface status`.
pub(crate) fn interfaces(interfaces: &[InterfaceStatus]) -> String {
    let mut table = Table::new(&["NODE", "NETWORK", "STATE", "WHY"]);
    for i in interfaces {
        table.row(&[&i.node, &i.network, &state(i.state), &i.why]);
    }
    table.render(0)
}

#[cfg(test)]
mod tests {
    use wolfpack_types::api::{GapStatus, RoundTripStatus};
    use wolfpack_types::networks::{InterfaceState, NetworkState};

    use super::*;

    fn network() -> NetworkStatus {
        let interface = |node: &str, state, why: &str| InterfaceStatus {
            network: "private".into(),
            node: node.into(),
            state: Some(state),
            why: why.into(),
        };
        NetworkStatus {
            name: "private".into(),
            state: Some(NetworkState::Up),
            why: String::new(),
            interfaces: vec![
                interface("a", InterfaceState::Up, ""),
                interface("b", InterfaceState::Failed, "it hears nobody"),
            ],
            paths: vec![PathDetail {
                node: "b".into(),
                up: false,
                silence_ms: 1234,
                sent: 9,
                received: 7,
                lost: 2,
                reordered: 0,
                loss_permille: 285,
                history: "..xx...".into(),
                jitter_us: 90,
                round_trip: Some(RoundTripStatus {
                    last_us: 1,
                    smoothed_us: 1250,
                    min_us: 1,
                    max_us: 9,
                }),
                gaps: vec![GapStatus { ago_ms: 5000, missed: 2, silence_ms: 300 }],
            }],
        }
    }

    #[test]
    fn what_is_wrong_is_in_words_and_paths_in_figures() {
        let delays = DelayStatus { worst_us: 350_000, worst_ever_us: 350_000, allowed_us: 333_333 };
        let text = networks(&[network()], &delays);
        assert!(text.contains("a up, b failed"), "{text}");
        assert!(text.contains("interface of b on private: it hears nobody"), "{text}");
        assert!(text.contains("28.5 %") && text.contains("1.2 ms") && text.contains("..xx..."));
        assert!(text.contains("b over private: 2 missed in 300 ms, 5 s ago"), "{text}");
        assert!(text.contains("TOO SLOW"), "{text}");
        let text = interfaces(&network().interfaces);
        assert!(text.lines().nth(2).is_some_and(|l| l.contains("failed")), "{text}");
    }
}
