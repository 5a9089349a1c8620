//! The report card of a call: what it took and what it used.

use std::time::Duration;

use maquette_sandbox::{LogLevel, LogLine, Report};
use serde_json::{Value, json};

use crate::ui::{Ui, bytes, time};

/// The figures in one line.
pub(crate) fn line(report: &Report) -> String {
    let us = Duration::from_micros;
    let mut parts = vec![
        time(us(report.total_us)),
        format!("guest {}", bytes(report.guest_memory_bytes)),
        format!("tensors {}", bytes(report.tensor_bytes)),
        count(report.ops, "op"),
        count(report.crossings, "crossing"),
    ];
    if report.program_runs > 0 {
        parts.insert(4, count(report.program_runs, "program run"));
    }
    parts.join(" · ")
}

/// The figures one by one.
pub(crate) fn card(ui: &Ui, report: &Report) -> String {
    let us = Duration::from_micros;
    let mut rows = vec![
        ("time", time(us(report.total_us))),
        ("  of it: sandbox", time(us(report.instantiate_us))),
        ("  of it: loading", time(us(report.load_us))),
        ("  of it: tensors", time(us(report.compute_us))),
        ("cpu, own thread", time(us(report.cpu_us))),
        ("guest memory", bytes(report.guest_memory_bytes)),
        ("tensor memory", bytes(report.tensor_bytes)),
        ("ops", report.ops.to_string()),
        ("program runs", report.program_runs.to_string()),
        ("crossings", report.crossings.to_string()),
        ("output", bytes(report.output_bytes)),
    ];
    for (name, value) in &report.metrics {
        rows.push((name, value.to_string()));
    }
    rows.iter()
        .map(|(name, value)| format!("{} {value}\n", ui.faint(&format!("{name:>18}"))))
        .collect()
}

/// The report as JSON.
pub(crate) fn to_json(report: &Report) -> Value {
    serde_json::to_value(report).unwrap_or_else(|_| json!({}))
}

/// Log lines, indented.
pub(crate) fn logs(ui: &Ui, lines: &[LogLine], dropped: u64, indent: &str) -> String {
    let mut out = String::new();
    for line in lines {
        out.push_str(&format!(
            "{indent}{} {}\n",
            ui.faint(&format!("{:>5}", level(line.level))),
            line.message
        ));
    }
    if dropped > 0 {
        out.push_str(&format!(
            "{indent}      ({} more dropped: over the log budget)\n",
            bytes(dropped)
        ));
    }
    out
}

/// A level's name.
pub(crate) fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

/// `1 op`, `2 ops`.
pub(crate) fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_every_figure_with_its_unit() {
        let report = Report {
            total_us: 1_900,
            guest_memory_bytes: 1 << 20,
            tensor_bytes: 0,
            ops: 1,
            crossings: 3,
            ..Report::default()
        };
        assert_eq!(
            line(&report),
            "1.9 ms · guest 1.0 MiB · tensors 0 B · 1 op · 3 crossings"
        );
        let report = Report {
            program_runs: 1,
            ..report
        };
        assert!(
            line(&report).contains("1 op · 1 program run · 3 crossings"),
            "{}",
            line(&report)
        );
    }
}
