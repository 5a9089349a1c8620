//! Running another program: its lines as they come, its progress in bytes, its end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The longest line that is kept, in bytes; the rest of it is dropped.
const MAX_LINE: usize = 8 << 20;
/// The most lines that are kept of each stream.
const MAX_LINES: usize = 200_000;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) out: Vec<String>,
    pub(crate) err: Vec<String>,
}

/// Why a program did not run to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no such program, or it cannot be run.
    Start(std::io::Error),
    /// It took longer than allowed and was ended.
    Timeout(Duration),
}

impl Finished {
    pub(crate) fn success(&self) -> bool {
        self.status.success()
    }

    /// The last lines that say what went wrong: of stderr, or of stdout where that is empty.
    pub(crate) fn complaint(&self, lines: usize) -> String {
        let told = |lines: &[String]| lines.iter().any(|l| !l.trim().is_empty());
        let from = if told(&self.err) { &self.err } else { &self.out };
        let kept: Vec<&str> = from.iter().map(|l| l.trim_end()).filter(|l| !l.is_empty()).collect();
        kept[kept.len().saturating_sub(lines)..].join("\n")
    }
}

/// Runs a program with nothing to read, telling each line to `line` and calling `tick` a few times a second.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    mut line: impl FnMut(Stream, &str),
    mut tick: impl FnMut(),
) -> Result<Finished, Failure> {
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = Ended(spawned.map_err(Failure::Start)?);
    let (sender, lines) = channel();
    if let Some(out) = child.0.stdout.take() {
        forward(out, Stream::Out, sender.clone());
    }
    if let Some(err) = child.0.stderr.take() {
        forward(err, Stream::Err, sender);
    }
    let started = Instant::now();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let pause = Duration::from_millis(100);
    let mut exited = None;
    let status = loop {
        match lines.recv_timeout(pause) {
            Ok((stream, text)) => {
                line(stream, &text);
                let kept = if stream == Stream::Out { &mut out } else { &mut err };
                if kept.len() < MAX_LINES {
                    kept.push(text);
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => tick(),
            // Both streams are closed: it has ended or is about to.
            Err(RecvTimeoutError::Disconnected) => {
                tick();
                if let Some(status) = exited {
                    break status;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if let Some(status) = exited {
            // A grandchild may hold the streams open; it is not waited for.
            break status;
        }
        exited = child.0.try_wait().map_err(Failure::Start)?;
        if exited.is_none() && started.elapsed() > limit {
            return Err(Failure::Timeout(limit));
        }
    };
    Ok(Finished { status, out, err })
}

/// Runs a short program and returns the first line of its output, if it succeeds.
pub(crate) fn first_line<S: AsRef<OsStr>>(program: S, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout)
        .ok()
        .filter(|_| output.status.success())?;
    text.lines()
        .next()
        .map(|l| l.trim().to_owned())
        .filter(|l| !l.is_empty())
}

/// The file that a program's name stands for on `PATH`.
pub(crate) fn on_path(program: &str) -> Option<std::path::PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// A child that does not outlive the interest in it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn forward(stream: impl Read + Send + 'static, from: Stream, to: Sender<(Stream, String)>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut bytes);
            if !matches!(read, Ok(n) if n > 0) {
                return;
            }
            if bytes.last() != Some(&b'\n') && bytes.len() == MAX_LINE && skip_line(&mut reader).is_err() {
                return;
            }
            let text = String::from_utf8_lossy(&bytes);
            if to.send((from, text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                return;
            }
        }
    });
}

/// Reads to the end of a line and forgets it.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let (used, done) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(used);
        if done {
            return Ok(());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<(Finished, Vec<(Stream, String)>), Failure> {
        let mut seen = Vec::new();
        let finished = run(
            Command::new("sh").args(["-c", script]),
            limit,
            |stream, line| seen.push((stream, line.to_owned())),
            || (),
        )?;
        Ok((finished, seen))
    }

    #[test]
    fn lines_of_both_streams_and_the_status_arrive() {
        let (finished, seen) = shell("echo one; echo two >&2; printf three; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.out, ["one", "three"]);
        assert_eq!(finished.err, ["two"]);
        assert_eq!(seen.len(), 3);
        assert_eq!(finished.complaint(5), "two");
    }

    #[test]
    fn an_endless_program_is_ended() {
        let error = shell("sleep 60", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Failure::Timeout(_)));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (finished, _) = shell(
            "head -c 9000000 /dev/zero | tr '\\0' x; echo; echo end",
            Duration::from_secs(20),
        )
        .unwrap();
        assert_eq!(finished.out.len(), 2);
        assert_eq!((finished.out[0].len(), finished.out[1].as_str()), (MAX_LINE, "end"));
    }

    #[test]
    fn a_grandchild_that_keeps_the_streams_open_is_not_waited_for() {
        let started = Instant::now();
        let (finished, _) = shell("echo done; sleep 30 & exit 0", Duration::from_secs(20)).unwrap();
        assert_eq!(finished.out, ["done"]);
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let missing = run(
            &mut Command::new("maquette-no-such-program"),
            Duration::from_secs(1),
            |_, _| (),
            || (),
        );
        assert!(matches!(missing, Err(Failure::Start(_))));
        assert_eq!(first_line("maquette-no-such-program", &[]), None);
        assert_eq!(on_path("maquette-no-such-program"), None);
    }
}
