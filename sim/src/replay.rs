//! Runs a recorded life again: a core set up as the recorded one, told the same at the same times.
//! Its outputs must be the same; the first that is not is where the life took another turn.
//!
//! It reads bytes; opening files is the caller's. A recording of another commit may differ without
//! anything being wrong, which the report says.

use std::collections::BTreeMap;

use wolfpack_core::flight::{self, FlightError, Frame, Header, Reader, Step};
use wolfpack_core::{Core, Input, Output};
use wolfpack_types::{Instant, NodeInc};

/// Where the replay parts from the recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Number of the step, from 0 (what a new core puts out).
    pub step: u64,
    pub now: Instant,
    /// The input in words.
    pub input: String,
    /// Which of the step's outputs.
    pub output: usize,
    /// What the core puts out here now; None: nothing, the recording has more.
    pub here: Option<String>,
    /// How many outputs the recording has for this step.
    pub recorded: usize,
}

/// What a replay has come to.
#[derive(Clone, Debug)]
pub struct Report {
    pub who: NodeInc,
    pub version: String,
    pub commit: String,
    pub wall_ms: u64,
    pub steps: u64,
    /// Recorded time from the first to the last step.
    pub span: std::time::Duration,
    pub difference: Option<Difference>,
    /// Why the recording ends, where it says so.
    pub end: Option<String>,
    /// Bytes of a frame that breaks off at the end of the file.
    pub left_over: usize,
    /// What is damaged, and where: what came before was replayed.
    pub damage: Option<FlightError>,
    /// The story, where it was wanted.
    pub lines: Vec<String>,
}

/// Replays a file.
///
/// # Errors
/// Bytes that are no recording, of another format, or without a readable header.
pub fn replay(bytes: &[u8], story: bool) -> Result<Report, FlightError> {
    let mut reader = Reader::new(bytes)?;
    let header = match reader.next_frame()? {
        Some(Frame::Header(header)) => *header,
        _ => {
            let why = "the first frame is no header".to_owned();
            return Err(FlightError::Damaged { at: flight::MAGIC.len() + 2, why });
        }
    };
    let mut replay = Replay::new(header, story);
    loop {
        match reader.next_frame() {
            Ok(Some(Frame::Step(step))) => replay.step(*step),
            Ok(Some(Frame::End(why))) => replay.report.end = Some(why),
            Ok(Some(Frame::Header(_))) => {
                replay.report.end = Some("another header follows: not replayed further".into());
                break;
            }
            Ok(None) => break,
            Err(e) => {
                replay.report.damage = Some(e);
                break;
            }
        }
        if replay.report.difference.is_some() {
            break;
        }
    }
    if replay.report.difference.is_none() && replay.report.damage.is_none() {
        replay.report.left_over = reader.left_over();
    }
    Ok(replay.report)
}

struct Replay {
    core: Core,
    first: Instant,
    story: bool,
    report: Report,
}

impl Replay {
    fn new(header: Header, story: bool) -> Self {
        let report = Report {
            who: header.config.me,
            version: header.version,
            commit: header.commit,
            wall_ms: header.wall_ms,
            steps: 0,
            span: std::time::Duration::ZERO,
            difference: None,
            end: None,
            left_over: 0,
            damage: None,
            lines: Vec::new(),
        };
        let core = Core::new(header.config, header.started);
        Self { core, first: header.started, story, report }
    }

    fn step(&mut self, step: Step) {
        let Step { now, input, outputs: recorded } = step;
        self.report.span = now.since(self.first);
        let words = input.as_ref().map_or_else(|| "start".to_owned(), words);
        let quiet = matches!(input, Some(Input::Deadline | Input::WallClock { .. }));
        if self.story && !quiet {
            self.say(format!("<- {words}"));
        }
        if let Some(input) = input {
            self.core.handle(now, input);
        }
        let mut outputs = Vec::new();
        while let Some(output) = self.core.poll_output() {
            outputs.push(output);
        }
        if self.story {
            for output in &outputs {
                self.say(format!("   {}", put_out(output)));
            }
        }
        let same = |k: usize| outputs.get(k).map(flight::digest) == recorded.get(k).copied();
        let count = outputs.len().max(recorded.len());
        if let Some(output) = (0..count).find(|&k| !same(k)) {
            self.report.difference = Some(Difference {
                step: self.report.steps,
                now,
                input: words,
                output,
                here: outputs.get(output).map(put_out),
                recorded: recorded.len(),
            });
        }
        self.report.steps += 1;
    }

    fn say(&mut self, text: String) {
        let at = self.report.span.as_secs_f64();
        self.report.lines.push(format!("{at:>12.6}  [{}] {text}", self.report.who));
    }
}

fn words(input: &Input) -> String {
    match input {
        Input::Peer { from, message } => format!("from {from}: {}", crate::tell::message(message)),
        Input::Register(event) => format!("register says {}", crate::tell::register(event)),
        other => format!("{other:?}"),
    }
}

fn put_out(output: &Output) -> String {
    match output {
        Output::Send { to, message } => format!("-> {to} {}", crate::tell::message(message)),
        Output::Register(command) => {
            format!("register: {}", crate::tell::register_command(command))
        }
        Output::Monitor(command) => format!("monitor: {}", crate::tell::monitor_command(command)),
        Output::Event(event) => format!("{:?}: {event}", event.event.severity),
        other => format!("{other:?}"),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commit = if self.commit.is_empty() { "unknown" } else { &self.commit };
        writeln!(
            f,
            "life {} recorded by version {} (commit {commit}): {} steps over {:.3} s",
            self.who,
            self.version,
            self.steps,
            self.span.as_secs_f64()
        )?;
        if let Some(end) = &self.end {
            writeln!(f, "the recording ends: {end}")?;
        }
        if self.left_over > 0 {
            writeln!(f, "the file breaks off: {} bytes of a step were left out", self.left_over)?;
        }
        if let Some(damage) = &self.damage {
            writeln!(f, "the file is damaged {damage}")?;
        }
        match &self.difference {
            None => write!(f, "the replay put out the same in every step"),
            Some(d) => write!(
                f,
                "the replay takes another turn in step {} at {}, after: {}\n  output {} of {} \
                 recorded is here: {}\n  (a build of another commit may differ without anything \
                 being wrong)",
                d.step,
                d.now,
                d.input,
                d.output + 1,
                d.recorded,
                d.here.as_deref().unwrap_or("nothing")
            ),
        }
    }
}

/// Recordings of lives in a simulated run, as the service makes them of its own.
#[derive(Debug, Default)]
pub struct Recordings {
    /// Whether lives are recorded at all.
    pub wanted: bool,
    files: BTreeMap<NodeInc, Vec<u8>>,
}

impl Recordings {
    /// A life begins.
    pub fn begin(&mut self, header: &Header) {
        if self.wanted {
            self.files.insert(header.config.me, flight::begin(header));
        }
    }

    /// A step begins.
    #[must_use]
    pub fn draft(&self, now: Instant, input: Option<&Input>) -> Option<flight::Draft> {
        self.wanted.then(|| flight::Draft::new(now, input))
    }

    /// A step is complete.
    pub fn finish(&mut self, who: NodeInc, draft: flight::Draft) {
        if let Some(file) = self.files.get_mut(&who) {
            file.extend_from_slice(&draft.finish());
        }
    }

    /// What was recorded, by life.
    #[must_use]
    pub fn take(&mut self) -> BTreeMap<NodeInc, Vec<u8>> {
        std::mem::take(&mut self.files)
    }
}
