//! What a tenant has had of the lanes lately: work counts the less, the longer ago it was.

use std::time::{Duration, Instant};

/// After so long, what was counts for a third.
const MEMORY: Duration = Duration::from_secs(1);

/// Nobody has had much who has had no more than this.
const LITTLE: Duration = Duration::from_millis(20);

/// How many times as much is much more.
const MUCH: f64 = 2.0;

/// Work, as it fades.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lately {
    seconds: f64,
    at: Option<Instant>,
}

impl Lately {
    /// Adds work that was done until now.
    pub(super) fn add(&mut self, work: Duration, now: Instant) {
        *self = Self {
            seconds: self.seconds(now) + work.as_secs_f64(),
            at: Some(now),
        };
    }

    /// What is left of it, in seconds.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let ago = now.saturating_duration_since(at);
        self.seconds * (-ago.as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }
}

/// Whether who has had `seconds` lately has had much more than who has had `other`.
pub(super) fn is_much_more(seconds: f64, other: f64) -> bool {
    seconds > MUCH * other + LITTLE.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_fades() {
        let now = Instant::now();
        let mut lately = Lately::default();
        assert!(lately.seconds(now).abs() < 1e-9);
        lately.add(Duration::from_millis(300), now);
        assert!((lately.seconds(now) - 0.3).abs() < 1e-9);
        let later = now + MEMORY;
        assert!((lately.seconds(later) - 0.3 / std::f64::consts::E).abs() < 1e-9);
        lately.add(Duration::from_millis(100), later);
        assert!((lately.seconds(later) - (0.1 + 0.3 / std::f64::consts::E)).abs() < 1e-9);
        assert!(lately.seconds(later + 100 * MEMORY) < 1e-9);
    }

    #[test]
    fn somebody_who_works_all_the_time_has_had_a_second() {
        let (mut now, mut lately) = (Instant::now(), Lately::default());
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            lately.add(Duration::from_millis(10), now);
        }
        assert!((lately.seconds(now) - 1.0).abs() < 0.01);
    }

    #[test]
    fn much_more() {
        let table = [
            (0.02, 0.0, false),
            (0.021, 0.0, true),
            (0.5, 0.25, false),
            (0.53, 0.25, true),
        ];
        for (seconds, other, expected) in table {
            assert_eq!(is_much_more(seconds, other), expected, "{seconds} and {other}");
        }
    }
}
