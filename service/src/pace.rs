//! Refuses times that this machine cannot hold, before a cluster relies on them (P11).

use std::time::Duration;

use wolfpack_netdrv::pace::{self, Pace};
use wolfpack_types::config::Config;

use crate::error::StartError;

/// Long enough to see a machine that is busy all the time; short enough not to be felt.
const SPAN: Duration = Duration::from_millis(250);

/// Checks that the machine allows the configured times. Only times that are so short that it matters
/// are measured for.
pub(crate) fn check(config: &Config) -> Result<(), StartError> {
    if !config.times.needs_realtime() {
        return Ok(());
    }
    let pace = pace::measure(SPAN)
        .map_err(|source| StartError::System { act: "start a thread", source })?;
    judge(config, pace)
}

fn judge(config: &Config, pace: Pace) -> Result<(), StartError> {
    let (times, profile) = (&config.times, config.profile.name());
    let allowed = times.delay_allowed();
    let error = match pace.refused {
        Some(why) => StartError::NoRealtime { profile, detect_ms: times.detect().as_millis(), why },
        None if pace.worst > allowed => StartError::TooSlow {
            profile,
            worst_ms: pace.worst.as_millis(),
            allowed_ms: allowed.as_millis(),
        },
        None => {
            tracing::info!(
                "this machine holds the times of profile '{profile}': a real-time thread was at \
                 most {} us late, {} us are allowed",
                pace.worst.as_micros(),
                allowed.as_micros()
            );
            return Ok(());
        }
    };
    if config.without_realtime {
        tracing::warn!("the risk is taken as configured: {error}");
        return Ok(());
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn config(extra: &str) -> Config {
        let text = format!(
            r#"
            node = "a"
            cluster_key = "/k"
            quorum = "majority"
            {extra}
            [[network]]
            name = "private"
            interface = "eth1"
            [[peer]]
            id = 1
            name = "a"
            addresses = {{ private = "10.0.0.1" }}
            [[peer]]
            id = 2
            name = "b"
            addresses = {{ private = "10.0.0.2" }}
            [[peer]]
            id = 3
            name = "c"
            addresses = {{ private = "10.0.0.3" }}
            "#
        );
        Config::parse(&text).unwrap()
    }

    fn pace(refused: bool, worst_ms: u64) -> Pace {
        let refused = refused.then(|| io::Error::from_raw_os_error(1));
        Pace { refused, worst: Duration::from_millis(worst_ms) }
    }

    #[test]
    fn turbo_without_realtime_or_on_a_slow_machine_is_refused_unless_the_risk_is_taken() {
        let turbo = config("profile = \"turbo\"");
        judge(&turbo, pace(false, 20)).unwrap();
        let error = judge(&turbo, pace(true, 0)).unwrap_err().to_string();
        assert!(error.contains("'turbo'") && error.contains("CAP_SYS_NICE"), "{error}");
        let error = judge(&turbo, pace(false, 21)).unwrap_err().to_string();
        assert!(error.contains("21 ms late, 20 ms"), "{error}");
        let risky = config("profile = \"turbo\"\ntimes = { without_realtime = true }");
        judge(&risky, pace(true, 99)).unwrap();
    }

    #[test]
    fn slow_profiles_are_not_measured_for() {
        let standard = config("");
        assert!(!standard.times.needs_realtime());
        check(&standard).unwrap();
    }
}
