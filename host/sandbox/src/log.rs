//! A call's log: what the guest says through `run.log`, standard output and standard error, cleaned and bounded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::call::{LogLevel, LogLine};

/// Longer lines are cut.
const MAX_LINE_BYTES: usize = 4096;

/// What a line costs beside its text, so that empty lines are not free.
const LINE_OVERHEAD: u64 = 16;

/// Shared with the streams that WASI holds as standard output and standard error.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    lines: Vec<LogLine>,
    left: u64,
    dropped: u64,
    /// Unfinished lines of standard output and standard error.
    partial: [Vec<u8>; 2],
}

/// Which of the guest's streams a text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Log {
    pub(crate) fn new(budget: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            lines: Vec::new(),
            left: budget,
            dropped: 0,
            partial: [Vec::new(), Vec::new()],
        })))
    }

    /// A log is data behind a lock that nothing panics under; a poisoned one is still whole.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, one log line for each of its lines; returns what was kept.
    pub(crate) fn line(&self, level: LogLevel, message: &str) -> Vec<LogLine> {
        let mut inner = self.inner();
        message.lines().filter_map(|line| inner.push(level, line)).collect()
    }

    /// Adds a piece of a stream, a line whenever one is complete.
    pub(crate) fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut inner = self.inner();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let partial = &mut inner.partial[stream as usize];
            let room = MAX_LINE_BYTES.saturating_sub(partial.len());
            let kept = piece.len().min(room);
            partial.extend_from_slice(&piece[..kept]);
            inner.dropped += (piece.len() - kept) as u64;
            if piece.ends_with(b"\n") {
                inner.flush(stream);
            }
        }
    }

    /// Ends unfinished lines and takes the log: its lines, and how many bytes were dropped.
    pub(crate) fn take(&self) -> (Vec<LogLine>, u64) {
        let mut inner = self.inner();
        inner.flush(Stream::Stdout);
        inner.flush(Stream::Stderr);
        (std::mem::take(&mut inner.lines), inner.dropped)
    }
}

impl Inner {
    fn flush(&mut self, stream: Stream) {
        let bytes = std::mem::take(&mut self.partial[stream as usize]);
        if bytes.is_empty() {
            return;
        }
        let level = if stream == Stream::Stdout {
            LogLevel::Info
        } else {
            LogLevel::Warn
        };
        let text = String::from_utf8_lossy(&bytes);
        self.push(level, text.trim_end_matches(['\n', '\r']));
    }

    fn push(&mut self, level: LogLevel, line: &str) -> Option<LogLine> {
        let end = line.floor_char_boundary(MAX_LINE_BYTES);
        let cost = end as u64 + LINE_OVERHEAD;
        if cost > self.left {
            self.dropped += line.len() as u64;
            return None;
        }
        self.left -= cost;
        self.dropped += (line.len() - end) as u64;
        let line = LogLine {
            level,
            message: clean(&line[..end]),
        };
        self.lines.push(line.clone());
        Some(line)
    }
}

/// Text without control characters, so that a guest can neither forge lines nor drive a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_forge_another_or_drive_a_terminal() {
        let log = Log::new(1000);
        log.line(LogLevel::Info, "a\u{1b}[31m\rb\nc");
        let (lines, _) = log.take();
        let texts: Vec<_> = lines.iter().map(|l| l.message.as_str()).collect();
        assert_eq!(texts, ["a\u{fffd}[31m\u{fffd}b", "c"]);
    }

    #[test]
    fn what_exceeds_the_budget_is_dropped_and_counted() {
        let log = Log::new(100);
        for _ in 0..1000 {
            log.write(Stream::Stdout, b"0123456789\n");
        }
        let (lines, dropped) = log.take();
        assert_eq!(lines.len(), 3);
        assert_eq!(dropped, 9970);
    }

    #[test]
    fn a_line_longer_than_the_limit_is_cut_and_the_rest_counted() {
        let log = Log::new(1 << 20);
        log.write(Stream::Stderr, &[b'x'; 10_000]);
        log.write(Stream::Stderr, b"\nnext\n");
        let (lines, dropped) = log.take();
        assert_eq!((lines[0].message.len(), lines[1].message.as_str()), (4096, "next"));
        assert_eq!(dropped, 10_000 - 4096 + 1);
    }
}
