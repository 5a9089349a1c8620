//! What a person sees: narration and progress on standard error, results on standard output.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use maquette_package::Progress;
use serde_json::Value;

use crate::failure::{Failure, Result};

/// Talks to whoever runs the command.
pub(crate) struct Ui {
    json: bool,
    quiet: bool,
    /// Whether standard error takes escape sequences.
    fancy: bool,
    /// Whether standard output does.
    colour: bool,
    bar: Option<ProgressBar>,
    /// What is in progress, if how far is not known.
    spinning: Option<String>,
    /// The last line that was said, so that it is not said again.
    last: String,
    /// Inside a complaint that is of no use.
    useless: bool,
}

impl Ui {
    /// `json`: results as JSON. `quiet`: no narration.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self {
            json,
            quiet,
            fancy: !plain && std::io::stderr().is_terminal(),
            colour: !plain && !json && std::io::stdout().is_terminal(),
            bar: None,
            spinning: None,
            last: String::new(),
            useless: false,
        }
    }

    /// Whether nothing is to be narrated.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the result is to be JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of narration.
    pub(crate) fn say(&self, line: impl Display) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) if !bar.is_hidden() => bar.println(line.to_string()),
            _ => eprintln!("{line}"),
        }
    }

    /// A step of something longer, such as `build` — `minilm (154 KiB, 3.1 s)`.
    pub(crate) fn step(&self, verb: &str, rest: impl Display) {
        let verb = format!("{verb:>9}");
        self.say(format!("{} {rest}", self.paint_err("32;1", &verb)));
    }

    /// Something that is worth knowing and stops nothing.
    pub(crate) fn warn(&self, line: impl Display) {
        self.say(format!("{} {line}", self.paint_err("33;1", "warning:")));
    }

    /// A failure: what, where, how to fix it.
    pub(crate) fn error(&self, failure: &Failure) {
        eprintln!("{} {}", self.paint_err("31;1", "error:"), failure.what);
        if !failure.place.is_empty() {
            eprintln!("  {} {}", self.paint_err("34;1", "-->"), failure.place);
        }
        if let Some(detail) = &failure.detail {
            for line in detail.lines() {
                eprintln!("   {} {line}", self.paint_err("34;1", "|"));
            }
        }
        for (i, line) in failure.help.lines().enumerate() {
            if i == 0 {
                eprintln!("  {} help: {line}", self.paint_err("34;1", "="));
            } else {
                eprintln!("          {line}");
            }
        }
    }

    /// The result, for a person or a program. `text` is asked for only if a person reads it.
    pub(crate) fn result(&self, json: &Value, text: impl FnOnce(&Self) -> String) -> Result<()> {
        let mut out = if self.json { pretty(json, false) } else { text(self) };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        print(&out)
    }

    /// Good: green on standard output.
    pub(crate) fn good(&self, text: &str) -> String {
        self.paint("32;1", text)
    }

    /// Bad: red on standard output.
    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("31;1", text)
    }

    /// Important on standard output.
    pub(crate) fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Less important on standard output.
    pub(crate) fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn paint_err(&self, code: &str, text: &str) -> String {
        if self.fancy {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Writes to standard output. A reader that has gone (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::environment(format!("cannot write the result: {e}")))
        }
        _ => Ok(()),
    }
}

impl Progress for Ui {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        self.end();
        if self.quiet {
            return;
        }
        if !self.fancy {
            match total {
                Some(total) => eprintln!("{:>9} {what} ({})", "", bytes(total)),
                None if self.last == what => {}
                None => eprintln!("{:>9} {what}", ""),
            }
            return;
        }
        self.spinning = total.is_none().then(|| what.to_owned());
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        // The templates are constants of this file; should one not parse, the plain look does.
        let template = match total {
            Some(_) => "{spinner} {msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            None => "{spinner} {msg} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn end(&mut self) {
        self.spinning = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, line: &str) {
        self.useless = is_useless(self.useless, line);
        if self.useless {
            return;
        }
        // What a tool says of its progress is indented. On a terminal the latest of it is enough.
        if let (Some(what), Some(bar)) = (&self.spinning, &self.bar)
            && line.starts_with(' ')
        {
            bar.set_message(format!("{what}: {}", line.trim()));
            return;
        }
        Ui::say(self, format_args!("{:>9} {}", "", line.trim_start()));
        line.clone_into(&mut self.last);
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a line belongs to cargo's complaint that the standard library, where it is built from source, has no use for the patch
/// that names the SDK. The model has.
fn is_useless(before: bool, line: &str) -> bool {
    line.starts_with("warning: patch `maquette-sdk ")
        || (before && (line.starts_with("help: ") || line.starts_with("     ")))
}

/// Bytes for people: `1.4 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A time for people: `83 us`, `1.9 ms`, `2.4 s`.
pub(crate) fn time(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    if us < 1000.0 {
        format!("{us:.0} us")
    } else if us < 1e6 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{:.1} s", us / 1e6)
    }
}

/// JSON for people: indented, but a list of plain values stays on one line, cut if it is long.
pub(crate) fn pretty(value: &Value, cut: bool) -> String {
    let mut out = String::new();
    write_pretty(value, 0, cut, &mut out);
    out
}

/// Plain values of a list that are shown before the rest is counted.
const SHOWN: usize = 8;

fn write_pretty(value: &Value, depth: usize, cut: bool, out: &mut String) {
    let indent = |depth: usize| "  ".repeat(depth);
    match value {
        Value::Array(items) if items.iter().all(|v| !v.is_array() && !v.is_object()) => {
            out.push('[');
            let shown = if cut && items.len() > SHOWN * 2 {
                SHOWN
            } else {
                items.len()
            };
            for (i, item) in items.iter().take(shown).enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&item.to_string());
            }
            if shown < items.len() {
                out.push_str(&format!(", … {} more", items.len() - shown));
            }
            out.push(']');
        }
        Value::Array(items) => {
            out.push_str("[\n");
            for (i, item) in items.iter().enumerate() {
                out.push_str(&indent(depth + 1));
                write_pretty(item, depth + 1, cut, out);
                out.push_str(if i + 1 < items.len() { ",\n" } else { "\n" });
            }
            out.push_str(&indent(depth));
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push_str("{\n");
            for (i, (name, item)) in fields.iter().enumerate() {
                out.push_str(&indent(depth + 1));
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push_str(": ");
                write_pretty(item, depth + 1, cut, out);
                out.push_str(if i + 1 < fields.len() { ",\n" } else { "\n" });
            }
            out.push_str(&indent(depth));
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(90_868_376), "86.7 MiB");
        assert_eq!(time(Duration::from_micros(83)), "83 us");
        assert_eq!(time(Duration::from_micros(1_900)), "1.9 ms");
        assert_eq!(time(Duration::from_millis(2_400)), "2.4 s");
    }

    #[test]
    fn only_the_complaint_about_the_sdks_patch_is_left_out() {
        let lines = [
            ("warning: unused variable", false),
            (
                "warning: patch `maquette-sdk v0.1.0 (/x)` was not used in the crate graph",
                true,
            ),
            ("help: Check that the patched package version", true),
            ("      with the dependency requirements.", true),
            ("warning: patch `other v1.0.0` was not used in the crate graph", false),
            ("help: Check", false),
        ];
        let mut useless = false;
        for (line, expected) in lines {
            useless = is_useless(useless, line);
            assert_eq!(useless, expected, "{line}");
        }
    }

    #[test]
    fn printed_json_reads_back_unless_it_was_cut_on_purpose() {
        let value = json!({"a": [1, 2.5, "x"], "b": {"c": [[1], [2, 3]], "d": {}}, "e": [], "f": null});
        let text = pretty(&value, false);
        assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value));
        assert!(text.contains("\"a\": [1, 2.5, \"x\"]"), "{text}");
        let long = json!((0..384).collect::<Vec<_>>());
        assert_eq!(pretty(&long, true), "[0, 1, 2, 3, 4, 5, 6, 7, … 376 more]");
    }
}
