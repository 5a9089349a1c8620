//! A measured figure, its aim, and how it was measured; and the clocks and statistics behind it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::ui::Ui;

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// No more than this.
    Most(f64),
    /// No less than this.
    Least(f64),
    /// It explains another figure.
    None,
}

/// A figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What programs know it by.
    pub(crate) id: &'static str,
    /// What it is.
    pub(crate) what: String,
    /// How much.
    pub(crate) value: f64,
    /// Of what: `us`, `x`, `req/s`.
    pub(crate) unit: &'static str,
    /// What it should be.
    pub(crate) aim: Aim,
    /// How it was measured.
    pub(crate) how: String,
}

impl Figure {
    /// Whether the aim is met, if there is one.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.aim {
            Aim::Most(most) => Some(self.value <= most),
            Aim::Least(least) => Some(self.value >= least),
            Aim::None => None,
        }
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let aim = match self.aim {
            Aim::Most(most) => json!({"at_most": most}),
            Aim::Least(least) => json!({"at_least": least}),
            Aim::None => Value::Null,
        };
        json!({
            "id": self.id, "what": self.what, "value": self.value, "unit": self.unit,
            "aim": aim, "met": self.met(), "how": self.how,
        })
    }
}

/// The table for people.
pub(crate) fn table(ui: &Ui, figures: &[Figure]) -> String {
    let width = figures.iter().map(|f| f.what.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for figure in figures {
        let value = format!("{} {}", number(figure.value), figure.unit);
        let (aim, verdict) = match (figure.aim, figure.met()) {
            (Aim::Most(most), Some(met)) => (format!("<= {}", number(most)), met),
            (Aim::Least(least), Some(met)) => (format!(">= {}", number(least)), met),
            _ => (String::new(), true),
        };
        let verdict = match (aim.is_empty(), verdict) {
            (true, _) => String::new(),
            (false, true) => ui.good("met"),
            (false, false) => ui.bad("missed"),
        };
        let pad = " ".repeat(width.saturating_sub(figure.what.chars().count()));
        out.push_str(&format!("{}{pad}  {value:>16}  {aim:>10}  {verdict}\n", figure.what));
        out.push_str(&ui.faint(&format!("    {}\n", figure.how)));
    }
    out
}

/// Three significant digits or so.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of some samples; 0 of none.
pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 {
        samples[middle]
    } else {
        f64::midpoint(samples[middle - 1], samples[middle])
    }
}

/// Processor time of this thread so far.
pub(crate) fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

/// Processor time of this process so far.
pub(crate) fn process_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The memory of this process that is in use, in bytes, its code and other files not counted.
pub(crate) fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = line
        .and_then(|l| l.trim().split(' ').next())
        .and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn an_aim_is_met_up_to_its_bound() {
        let figure = |value, aim| Figure {
            id: "x",
            what: String::new(),
            value,
            unit: "x",
            aim,
            how: String::new(),
        };
        assert_eq!(figure(2.0, Aim::Most(2.0)).met(), Some(true));
        assert_eq!(figure(2.1, Aim::Most(2.0)).met(), Some(false));
        assert_eq!(figure(0.5, Aim::Least(0.5)).met(), Some(true));
        assert_eq!(figure(0.4, Aim::Least(0.5)).met(), Some(false));
        assert_eq!(figure(0.4, Aim::None).met(), None);
    }

    #[test]
    fn the_clocks_and_the_memory_gauge_work_here() {
        let before = thread_cpu();
        let mut sum = 0_u64;
        while thread_cpu() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(process_cpu() >= thread_cpu() - before);
        assert!(anonymous_memory() > 100 << 10, "{}", anonymous_memory());
    }
}
