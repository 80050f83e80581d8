//! What an idle daemon needs: processor time over a span, and resident memory.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// What one process needed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Needs {
    pub(crate) program: String,
    /// Percent of one core.
    pub(crate) cpu_percent: f64,
    /// Resident memory, megabytes (2^20).
    pub(crate) rss_mb: f64,
}

/// Watches processes for a span: name and id each.
///
/// # Errors
/// One has ended.
pub(crate) fn measure(processes: &[(String, i32)], span: Duration) -> Result<Vec<Needs>> {
    let began = Instant::now();
    let before: Vec<u64> = processes.iter().map(|(_, pid)| ticks(*pid)).collect::<Result<_>>()?;
    std::thread::sleep(span);
    let seconds = began.elapsed().as_secs_f64();
    let per_second = ticks_per_second()?;
    let mut needs = Vec::new();
    for ((program, pid), before) in processes.iter().zip(before) {
        let used = ticks(*pid)?.saturating_sub(before);
        needs.push(Needs {
            program: program.clone(),
            cpu_percent: 100.0 * float(used) / per_second / seconds,
            rss_mb: float(status_kb(*pid, "VmRSS:")?) / 1024.0,
        });
    }
    Ok(needs)
}

#[expect(clippy::cast_precision_loss, reason = "ticks and kilobytes of one process are small")]
fn float(n: u64) -> f64 {
    n as f64
}

fn ticks_per_second() -> Result<f64> {
    use nix::unistd::{SysconfVar, sysconf};
    let n = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not say its clock ticks")?;
    Ok(float(u64::try_from(n)?))
}

/// User and system time of a process, in clock ticks (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The second field is the name in parentheses, which may contain anything.
    let rest = text.rsplit_once(')').context("no name in it")?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok());
    Ok(field(14).context("no field 14")? + field(15).context("no field 15")?)
}

fn status_kb(pid: i32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line =
        text.lines().find_map(|l| l.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
