//! How often intermediate events are told: at most one of a kind in a while, and the last one is never lost. Pure.

use std::time::{Duration, Instant};

/// The least time between two events of a kind, as in today's API.
pub(crate) const EVERY: Duration = Duration::from_millis(500);

/// A kind of event that comes often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The output grew.
    Output,
    /// The logs grew.
    Logs,
}

/// Remembers, for one prediction, what was told when and what waits.
#[derive(Clone, Debug)]
pub(crate) struct Throttle {
    every: Duration,
    /// By kind.
    lanes: [Lane; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    told: Option<Instant>,
    waits: bool,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(EVERY)
    }
}

impl Throttle {
    /// At most one event of a kind in `every`.
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            lanes: Default::default(),
        }
    }

    /// Something happened: whether to tell of it now. If not, it is due later (see [`Throttle::next`]); what happens until then is
    /// told with it.
    pub(crate) fn happened(&mut self, kind: Kind, now: Instant) -> bool {
        let every = self.every;
        let lane = &mut self.lanes[kind as usize];
        let free = lane
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= every);
        if free {
            *lane = Lane {
                told: Some(now),
                waits: false,
            };
        } else {
            lane.waits = true;
        }
        free
    }

    /// When something that waits is due, if anything waits.
    pub(crate) fn next(&self) -> Option<Instant> {
        let waiting = self.lanes.iter().filter(|lane| lane.waits);
        waiting.filter_map(|lane| Some(lane.told? + self.every)).min()
    }

    /// What is due now: to be told at once.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Kind> {
        let waits = |throttle: &Self, kind: Kind| throttle.lanes[kind as usize].waits;
        let kinds = [Kind::Output, Kind::Logs].into_iter();
        kinds
            .filter(|kind| waits(self, *kind) && self.happened(*kind, now))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_is_told_at_once_and_the_last_when_its_time_comes() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        assert_eq!(throttle.next(), None);
        assert!(throttle.happened(Kind::Output, start));
        assert!(!throttle.happened(Kind::Output, start + 10 * MS));
        assert!(!throttle.happened(Kind::Output, start + 499 * MS));
        assert!(
            throttle.happened(Kind::Logs, start + 100 * MS),
            "kinds do not wait for each other"
        );
        assert_eq!(throttle.next(), Some(start + 500 * MS));
        assert_eq!(throttle.due(start + 499 * MS), []);
        assert_eq!(throttle.due(start + 500 * MS), [Kind::Output]);
        assert_eq!((throttle.next(), throttle.due(start + 2000 * MS)), (None, vec![]));
    }

    proptest! {
        #[test]
        fn none_come_closer_than_agreed_and_none_are_lost(gaps in prop::collection::vec(0_u32..900, 1..50)) {
            let mut throttle = Throttle::default();
            let (mut now, mut told, mut last) = (Instant::now(), Vec::new(), None);
            for gap in gaps {
                let event = now + gap * MS;
                while let Some(due) = throttle.next().filter(|due| *due <= event) {
                    told.extend(throttle.due(due).iter().map(|_| due));
                }
                now = event;
                if throttle.happened(Kind::Output, now) {
                    told.push(now);
                }
                last = Some(now);
            }
            if let Some(due) = throttle.next() {
                told.extend(throttle.due(due).iter().map(|_| due));
            }
            prop_assert!(told.windows(2).all(|pair| pair[1] - pair[0] >= EVERY));
            prop_assert!(told.last().copied() >= last);
        }
    }
}
