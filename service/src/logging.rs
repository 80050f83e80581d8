//! The service's log on standard error, written by a thread of its own: a journal that stalls must
//! not reach the core.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::journal::stamp;
use crate::sink::Sink;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Starts the log. `foreground`: time stamps for people instead of priorities for the journal.
pub(crate) fn start(foreground: bool) {
    let note = |n: u64| format!("<4>{n} lines of the log were lost: it did not keep up\n").into();
    if let Ok(sink) = Sink::start("wolfpack-log", Box::new(io::stderr()), note) {
        SINK.get_or_init(|| sink);
    }
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::INFO)
        .event_format(Format { foreground })
        .with_writer(Lines)
        .finish();
    // Fails only if a log was started before, which then serves as well.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Waits a moment for what is not yet written.
pub(crate) fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush(Duration::from_secs(1));
    }
}

/// One line per event.
struct Format {
    foreground: bool,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.foreground {
            let (wall_us, boot_us) = stamp();
            let name = match level {
                Level::ERROR => "error",
                Level::WARN => "warning",
                _ => "info",
            };
            let (seconds, micros) = (wall_us / 1_000_000, wall_us % 1_000_000);
            write!(writer, "{seconds}.{micros:06} boot {boot_us} {name}: ")?;
        } else {
            // sd-daemon(3): syslog priorities at the start of the line.
            let priority = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(writer, "<{priority}>")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Hands each line to the thread.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

/// A line that is being made.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(sink) = SINK.get() {
            let mut line = std::mem::take(&mut self.0);
            // Text that comes from elsewhere must not forge a second line.
            let end = line.len().saturating_sub(1);
            for byte in &mut line[..end] {
                if byte.is_ascii_control() {
                    *byte = b' ';
                }
            }
            sink.write(line);
        }
    }
}
