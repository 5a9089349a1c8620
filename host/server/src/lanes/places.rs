//! Who runs at once: pure decisions over what runs and what waits.
//!
//! A call runs in the *foreground* or in the *background*. There are as many foreground places as lanes. Whoever has had less than
//! another, and asks for much less than the other's call takes, neither waits for that call to end nor shares a processor with it: it
//! is put into the background, and its place is free. A call never comes back from there, so that no decision has to be taken twice;
//! but whoever is well ahead of a tenant with calls in the background starts there too, so that nobody starves.
//!
//! Short calls in the foreground go on. All others are *held*: they go on by turns, as many at once as there are lanes to spare. Where
//! lanes are few, short calls are held as well while one runs whose tenant is far behind theirs; if that is very short, it does not even
//! wait for a place.

/// A call that is so many times shorter than another goes first.
const SHORTER: u64 = 4;

/// Nobody gives way before it takes so long, in microseconds: there is no way back, and so much can be waited for.
const LONG_US: u64 = 20_000;

/// A call holds others up for no longer than this, in microseconds.
const HOLDS_US: u64 = 100_000;

/// Nobody goes before whoever is less than so far ahead, in microseconds.
const AHEAD_US: u64 = 50_000;

/// How many calls may be in the background for each lane.
const PER_LANE: usize = 4;

/// How many may be there at least.
const AT_LEAST: usize = 8;

/// Where a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Foreground,
    Background,
}

/// Calls that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) foreground: usize,
    pub(super) background: usize,
}

impl Counts {
    pub(super) fn all(self) -> usize {
        self.foreground + self.background
    }

    pub(super) fn of(&mut self, place: Place) -> &mut usize {
        match place {
            Place::Foreground => &mut self.foreground,
            Place::Background => &mut self.background,
        }
    }
}

/// How many calls may be in the background beside so many lanes.
pub(crate) const fn background(lanes: usize) -> usize {
    let many = lanes.saturating_mul(PER_LANE);
    if many < AT_LEAST { AT_LEAST } else { many }
}

/// Where a tenant's next call starts, if it does: `running` of all and `own` of this tenant run; `ahead` tells whether the tenant has had
/// more than one with calls in the background.
///
/// A tenant has no more calls at once than there are lanes, and once half as many run as the background holds no more than one: the
/// other half is for those who have none.
pub(super) fn place(lanes: usize, running: Counts, own: Counts, ahead: bool) -> Option<Place> {
    let crowded = running.all() * 2 >= background(lanes);
    if own.all() >= lanes || (crowded && own.all() > 0) {
        return None;
    }
    if ahead && running.background < background(lanes) {
        return Some(Place::Background);
    }
    (running.foreground < lanes).then_some(Place::Foreground)
}

/// A call in the foreground, as the decision about who gives way sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runner {
    /// What its tenant has had, this call included, in microseconds.
    pub(super) time: u64,
    /// What the call takes: as predicted, or what it has taken if that is more, in microseconds.
    pub(super) takes_us: u64,
}

impl Runner {
    /// Whether it gives way to a call of `cost_us` whose tenant has had `time`.
    pub(super) fn gives_way(self, time: u64, cost_us: u64) -> bool {
        self.time > time && self.takes_us >= cost_us.saturating_mul(SHORTER).max(LONG_US)
    }
}

/// Whether one whose tenant has had `time` goes before one whose tenant has had `other`, in microseconds.
pub(super) fn goes_before(time: u64, other: u64) -> bool {
    other > time.saturating_add(AHEAD_US)
}

/// Whether a call that takes so long goes at once where those before which it goes have the lanes, in microseconds.
pub(super) fn is_short(takes_us: u64) -> bool {
    takes_us < LONG_US
}

/// Whether others wait for a call that takes so long, in microseconds.
pub(super) fn holds_others(takes_us: u64) -> bool {
    takes_us < HOLDS_US
}

/// Whether so many calls in the foreground may be in each other's way: not while half of the lanes are free.
pub(super) fn is_tight(lanes: usize, foreground: usize) -> bool {
    foreground * 2 > lanes
}

/// How many calls that are held may go on beside so many that are not, `before` of which go before all of them: each of these may want a
/// second processor for its kernels.
pub(super) fn spare(lanes: usize, going: usize, before: usize) -> usize {
    lanes.saturating_sub(going + before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(foreground: usize, background: usize) -> Counts {
        Counts { foreground, background }
    }

    #[test]
    fn places() {
        use Place::{Background, Foreground};
        let none = Counts::default();
        let table = [
            ("an idle server", none, none, false, Some(Foreground)),
            ("a free lane", counts(1, 3), none, false, Some(Foreground)),
            ("no lane is free", counts(2, 0), none, false, None),
            (
                "one tenant may have every lane",
                counts(1, 0),
                counts(1, 0),
                false,
                Some(Foreground),
            ),
            ("but no more", counts(0, 2), counts(0, 2), false, None),
            ("background counts", counts(1, 1), counts(1, 1), false, None),
            (
                "whoever is ahead goes beside those it has overtaken",
                counts(0, 1),
                none,
                true,
                Some(Background),
            ),
            ("even when lanes are taken", counts(2, 1), none, true, Some(Background)),
            (
                "or into a lane, when there is no room",
                counts(1, 8),
                none,
                true,
                Some(Foreground),
            ),
            (
                "a crowd keeps out who is there",
                counts(1, 4),
                counts(0, 1),
                false,
                None,
            ),
            ("and nobody else", counts(1, 4), none, false, Some(Foreground)),
        ];
        for (promise, running, own, ahead, expected) in table {
            assert_eq!(place(2, running, own, ahead), expected, "{promise}");
        }
    }

    #[test]
    fn who_gives_way() {
        let table = [
            ("a tenant that has had less keeps its place", 99, 900_000, false),
            ("as does one that has had as much", 100, 900_000, false),
            ("and a call that is not much longer", 900, 39_999, false),
            (
                "whoever has had more and takes much longer gives way",
                101,
                40_000,
                true,
            ),
        ];
        for (promise, time, takes_us, expected) in table {
            assert_eq!(Runner { time, takes_us }.gives_way(100, 10_000), expected, "{promise}");
        }
        let short = Runner {
            time: 9,
            takes_us: LONG_US - 1,
        };
        assert!(!short.gives_way(0, 0), "what is short can be waited for");
        assert_eq!(
            [1, 2, 3].map(|foreground| is_tight(4, foreground)),
            [false, false, true]
        );
        assert!(is_tight(1, 1));
        let spare = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 3)].map(|(going, before)| spare(4, going, before));
        assert_eq!(spare, [4, 3, 2, 1, 0, 0]);
    }

    proptest! {
        /// However many tenants loop, as long as they are no more than half the background one who has had nothing finds a place at
        /// once or somebody who can be moved.
        #[test]
        fn who_has_had_nothing_never_waits_for_who_loops(lanes in 1_usize..9, starts in proptest::collection::vec(0_usize..64, 0..200)) {
            let hostile = background(lanes) / 2;
            let (mut running, mut own) = (Counts::default(), vec![Counts::default(); hostile]);
            for tenant in starts {
                let tenant = tenant % hostile;
                if let Some(place) = place(lanes, running, own[tenant], false) {
                    *running.of(place) += 1;
                    *own[tenant].of(place) += 1;
                }
                // A short call of somebody else comes.
                if running.foreground == lanes {
                    prop_assert!(running.background < background(lanes));
                    let at = own.iter().position(|own| own.foreground > 0).unwrap_or_default();
                    for counts in [&mut running, &mut own[at]] {
                        counts.foreground -= 1;
                        counts.background += 1;
                    }
                }
                prop_assert_eq!(place(lanes, running, Counts::default(), false), Some(Place::Foreground));
            }
        }

        #[test]
        fn bounds_hold(lanes in 1_usize..9, starts in proptest::collection::vec((0_usize..20, any::<bool>()), 0..200)) {
            let (mut running, mut own) = (Counts::default(), vec![Counts::default(); 20]);
            for (tenant, ahead) in starts {
                if let Some(place) = place(lanes, running, own[tenant], ahead) {
                    *running.of(place) += 1;
                    *own[tenant].of(place) += 1;
                }
                prop_assert!(running.foreground <= lanes && running.background <= background(lanes));
                prop_assert!(own.iter().all(|own| own.all() <= lanes));
            }
        }
    }
}
