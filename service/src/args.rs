//! The command line as types.

use std::path::PathBuf;

use clap::Parser;

/// Exit codes. Those of sysexits.h where one fits.
pub(crate) mod exit {
    /// The store cannot be read as it is.
    pub(crate) const DAMAGED: u8 = 65;
    /// Another service runs, or a port or socket is taken.
    pub(crate) const UNAVAILABLE: u8 = 69;
    /// Something of the system fails.
    pub(crate) const SYSTEM: u8 = 71;
    /// The disk under the store fails.
    pub(crate) const STORE: u8 = 74;
    /// This life is over; a new one should be started.
    pub(crate) const AGAIN: u8 = 75;
    /// An administrator took this node out of the cluster: to be started when it is added again.
    pub(crate) const EVICTED: u8 = 77;
    /// The configuration or the key is wrong: starting again does not help.
    pub(crate) const CONFIG: u8 = 78;
}

const HELP: &str = "\
Exit codes:
   0  left the cluster cleanly (SIGTERM, SIGINT)
  65  the store is damaged
  69  another wolfpackd runs on this node, or its port is taken
  71  the operating system refuses something
  74  the disk under the store fails
  75  this life is over (excluded, or its resources were ended): start again
  77  this node was evicted from the cluster: start it when it was added again
  78  the configuration or the cluster key is wrong";

/// Cluster service of a Wolfpack node.
#[derive(Parser, Debug)]
#[command(name = "wolfpackd", version, after_help = HELP)]
pub(crate) struct Args {
    /// Configuration of this node
    #[arg(long, value_name = "FILE", default_value = "/etc/wolfpack/wolfpack.toml")]
    pub(crate) config: PathBuf,
    /// Log with time stamps instead of priorities for the journal
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Check the configuration and the key, print the time budget, and end
    #[arg(long)]
    pub(crate) check: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        let args = Args::parse_from(["wolfpackd", "--config", "/x", "--foreground"]);
        assert_eq!((args.config, args.foreground, args.check), ("/x".into(), true, false));
    }
}
