//! Where words go: results to standard output (text or JSON), progress and failures to standard
//! error. A reader that has gone away ends the command quietly.

use std::io::{self, Write};

use serde_json::{Value, json};
use wolfpack_types::api::Reply;

use crate::exit::{Exit, Failure};

/// The two streams and the form in which results are written.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// An answer of the service: as JSON unchanged, or as the text that `render` makes.
    pub(crate) fn reply(
        &mut self,
        reply: &Reply,
        render: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let value = serde_json::to_value(reply)
                .map_err(|e| Failure::new(Exit::Internal, e.to_string(), ""))?;
            self.line(&value.to_string())
        } else {
            self.line(render().trim_end())
        }
    }

    /// The result of a command that asks no service.
    pub(crate) fn local(&mut self, value: &Value, text: &str) -> Result<(), Failure> {
        if self.json { self.line(&value.to_string()) } else { self.line(text.trim_end()) }
    }

    /// One line on the way, for people only.
    pub(crate) fn progress(&mut self, text: &str) {
        if !self.json {
            // Progress that nobody can see is no failure of the command.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Says why the command was not carried out.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        if self.json {
            let value = json!({
                "reply": "failure",
                "exit": failure.exit as u8,
                "what": failure.what,
                "advice": failure.advice,
            });
            // There is no further place to complain to.
            let _ = self.line(&value.to_string());
            return;
        }
        let mut text = format!("wolfpack: {}\n", failure.what);
        if !failure.advice.is_empty() {
            text.push_str(&format!("  {}\n", failure.advice));
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            // As after `wolfpack events | head -1`.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(e) => Err(Failure::new(Exit::Internal, format!("cannot write: {e}"), "")),
        }
    }
}
