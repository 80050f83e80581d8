//! `cargo xtask demo`: a cluster, a fault, and the story of it.

use anyhow::{Context, Result, bail};
use clap::Args;
use wolfpack_lab::node::Node;
use wolfpack_lab::scenarios::{ALL, Run, Scenario, Stage};

use crate::{ProfileName, setup, step};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Name the scenarios.
    #[arg(long)]
    list: bool,
    /// The fault to show.
    #[arg(long, default_value = "power-cut", value_name = "NAME")]
    scenario: String,
    /// Leave the cluster up until Ctrl-C, and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Print the timeline for machines (with outage_ms); all else goes to the error stream.
    #[arg(long)]
    json: bool,
    /// The cluster's times.
    #[arg(long, value_enum, default_value = "standard")]
    profile: ProfileName,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for s in &ALL {
            println!("{:<24}{}: {}", s.name, s.fault, s.must);
        }
        return Ok(());
    }
    let Some(scenario) = Scenario::find(&options.scenario) else {
        let names: Vec<&str> = ALL.iter().map(|s| s.name).collect();
        bail!("there is no scenario '{}'; there are: {}", options.scenario, names.join(", "));
    };
    let mut steps = step::Steps::new(3);
    steps.announce("set-up");
    setup::run()?;
    wolfpack_lab::netns::requirements()?;
    let build = ["build", "--quiet", "-p", "wolfpack-service", "-p", "wolfpack-resmon"];
    let build = [&build[..], &["-p", "wolfpack-cli", "-p", "wolfpack-lab", "--bins"]].concat();
    steps.run("build", "cargo", &build)?;
    steps.announce(&format!("{}: {}", scenario.fault, scenario.must));
    let mut say = |line: &str| eprintln!("{line}");
    let binaries = Some(step::target_dir()?);
    let run = Run { profile: options.profile.into(), binaries, say: &mut say };
    let (stage, timeline) = scenario.run(run)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&timeline)?);
    } else {
        println!("\nTimeline since the fault ({}):\n\n{}", timeline.fault, timeline.text());
        println!("The watchers saw one owner of the address and one writer of the disk, always.");
    }
    if options.keep {
        look_around(&stage)?;
    }
    Ok(())
}

fn look_around(stage: &Stage<'_>) -> Result<()> {
    let lab = &stage.lab;
    let on: Vec<&Node> = lab.nodes.iter().filter(|n| n.is_on()).collect();
    let first = on.first().context("no node is on")?;
    eprintln!("\nThe cluster is left up until Ctrl-C. To look around, in another shell:\n");
    eprintln!("  export WOLFPACK_SOCKET={}", first.socket().display());
    eprintln!("  export PATH={}:$PATH", step::target_dir()?.display());
    eprintln!("  wolfpack status");
    eprintln!("  wolfpack events --follow");
    let address = wolfpack_lab::lab::cluster_address();
    let port = wolfpack_lab::lab::PORT;
    eprintln!("  ip netns exec {} curl http://{address}:{port}/", lab.client_ns.name());
    for node in on {
        eprintln!(
            "  ip netns exec {} bash    # node {}; its logs: {}",
            node.netns()?.name(),
            node.name(),
            node.dir().display()
        );
    }
    // Ctrl-C ends the program, after cleaning up.
    loop {
        std::thread::park();
    }
}
