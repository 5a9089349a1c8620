//! When a version is called no more because it traps every time: decided from the ends of its calls, without I/O.
//!
//! | what happens | what follows |
//! |---|---|
//! | a call ends well, or the guest refuses an input in its own words | it lives: the faults before are forgotten |
//! | a call ends in a trap, an exit, or out of memory or stack | a fault |
//! | a timeout, a cancel, the caller's or the operator's limit, a failure of the host | nothing: the machine, the caller or the host may be the cause |
//! | [`FAULTS`] faults of the model's owner or an admin within [`WINDOW_MS`] | quarantine |
//! | as many of at least [`STRANGERS`] other owners together | quarantine |
//! | it is released | callable, and nothing is held against it |
//!
//! A caller who finds an input that makes another's version trap must not take it down for everybody. So what one stranger sends
//! never suffices, however often it is sent: the owner, whose loss it would be, or several strangers who owe each other nothing have
//! to meet the faults, and one call that ends well clears them all. Until then a version that traps costs only those who call it,
//! as lanes are shared fairly. Time is no way back: whoever is told to look at it has looked.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::auth::ADMIN_OWNER;

/// Faults in a row.
pub(crate) const FAULTS: usize = 5;

/// Faults longer ago are forgotten, in milliseconds.
pub(crate) const WINDOW_MS: i64 = 10 * 60 * 1000;

/// Owners, other than the model's, that have to meet faults.
pub(crate) const STRANGERS: usize = 3;

/// Why a version is not called, as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quarantine {
    /// Unix milliseconds.
    pub(crate) since: i64,
    /// The faults that led to it.
    pub(crate) faults: usize,
    /// The last of them, in words for callers.
    pub(crate) reason: String,
}

/// How a call ended, as far as its version is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// The guest did its work, or said itself what is wrong with the input.
    Well,
    /// The guest broke: what callers are told.
    Fault(&'a str),
    /// Nothing is learned.
    Neither,
}

/// The faults in a row, each with its time and whose call it was.
#[derive(Debug, Default)]
struct Faults(Vec<(i64, Arc<str>)>);

impl Faults {
    /// Whether the version of a model's `owner` is to be called no more, now that a call of `caller` has ended.
    fn saw(&mut self, owner: &str, caller: &Arc<str>, now: i64, end: End<'_>) -> Option<Quarantine> {
        let reason = match end {
            End::Neither => return None,
            End::Well => {
                self.0.clear();
                return None;
            }
            End::Fault(reason) => reason,
        };
        self.0.retain(|(at, _)| now.saturating_sub(*at) < WINDOW_MS);
        // More of one caller say no more, and would take memory.
        let theirs = |(_, of): &(i64, Arc<str>)| of == caller;
        if self.0.iter().filter(|fault| theirs(fault)).count() >= FAULTS
            && let Some(oldest) = self.0.iter().position(theirs)
        {
            self.0.remove(oldest);
        }
        self.0.push((now, Arc::clone(caller)));
        let trusted = |of: &str| of == owner || of == ADMIN_OWNER;
        let own = self.0.iter().filter(|(_, of)| trusted(of)).count();
        let mut strangers: Vec<&str> = self.0.iter().map(|(_, of)| &**of).filter(|of| !trusted(of)).collect();
        strangers.sort_unstable();
        strangers.dedup();
        if own < FAULTS && (strangers.len() < STRANGERS || self.0.len() < FAULTS) {
            return None;
        }
        let faults = self.0.len();
        self.0.clear();
        Some(Quarantine {
            since: now,
            faults,
            reason: reason.to_owned(),
        })
    }
}

/// A version's state; shared by its record in the catalog and by what calls it.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    quarantine: Option<Arc<Quarantine>>,
}

impl Health {
    /// As it was kept.
    pub(crate) fn new(quarantine: Option<Quarantine>) -> Self {
        let state = State {
            quarantine: quarantine.map(Arc::new),
            ..State::default()
        };
        Self(Mutex::new(state))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is not called, if it is not.
    pub(crate) fn quarantine(&self) -> Option<Arc<Quarantine>> {
        self.lock().quarantine.clone()
    }

    /// A call ended. A quarantine that follows is returned, to be kept on disk before it is [set](Self::set).
    pub(crate) fn saw(&self, owner: &str, caller: &Arc<str>, now: i64, end: End<'_>) -> Option<Quarantine> {
        self.lock().faults.saw(owner, caller, now, end)
    }

    /// Begins or ends the quarantine. Whether there was one before.
    pub(crate) fn set(&self, quarantine: Option<Quarantine>) -> bool {
        let mut state = self.lock();
        state.faults.0.clear();
        std::mem::replace(&mut state.quarantine, quarantine.map(Arc::new)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Plays calls: who, and how each ended (`w`ell, `f`ault, `n`either), a second apart. At which of them it was quarantined.
    fn play(calls: &[(&str, char)]) -> Option<usize> {
        let mut faults = Faults::default();
        calls.iter().enumerate().find_map(|(i, (caller, end))| {
            let end = match end {
                'w' => End::Well,
                'f' => End::Fault("the model panicked"),
                _ => End::Neither,
            };
            faults.saw("me", &(*caller).into(), i as i64 * 1000, end).map(|_| i)
        })
    }

    #[test]
    fn which_ends_of_whose_calls_lead_to_quarantine() {
        let of = |caller: &'static str, ends: &str| ends.chars().map(|end| (caller, end)).collect::<Vec<_>>();
        for (what, calls, expected) in [
            ("five faults of the owner", of("me", "fffff"), Some(4)),
            ("an admin counts as the owner", of("admin", "fffff"), Some(4)),
            ("one fewer", of("me", "ffff"), None),
            ("a single success clears them", of("me", "ffffwffff"), None),
            ("what says nothing clears nothing", of("me", "fnfnfnfnf"), Some(8)),
            ("a stranger alone, however often", of("eve", &"f".repeat(1000)), None),
            (
                "two strangers",
                [of("eve", &"f".repeat(50)), of("mallory", &"f".repeat(50))].concat(),
                None,
            ),
            (
                "three strangers who meet nothing else",
                [of("a", "ff"), of("b", "ff"), of("c", "f")].concat(),
                Some(4),
            ),
            (
                "a stranger's faults are not added to the owner's",
                [of("eve", &"f".repeat(50)), of("me", "ffff")].concat(),
                None,
            ),
            (
                "somebody else's success clears a stranger's faults",
                [of("a", "ff"), of("b", "ff"), of("d", "w"), of("c", "f")].concat(),
                None,
            ),
        ] {
            assert_eq!(play(&calls), expected, "{what}");
        }
    }

    #[test]
    fn faults_of_long_ago_are_forgotten() {
        let (mut faults, me) = (Faults::default(), Arc::from("me"));
        let mut at = |now| faults.saw("me", &me, now, End::Fault("x")).is_some();
        assert!(!at(0) && !at(1) && !at(2) && !at(3));
        assert!(!at(WINDOW_MS), "the first is gone");
        assert!(at(WINDOW_MS), "and now there are five: 1, 2, 3 and these");
    }

    proptest! {
        #[test]
        fn a_version_that_ends_well_now_and_then_or_meets_one_stranger_stays(
            calls in proptest::collection::vec((0..3_usize, prop_oneof![Just('f'), Just('n')]), 0..200), gap in 1..5_usize
        ) {
            let names = ["me", "a", "b"];
            let mut kept = Vec::new();
            for (i, (who, end)) in calls.iter().enumerate() {
                if i % gap.min(FAULTS - 1) == 0 {
                    kept.push(("c", 'w'));
                }
                kept.push((names[*who], *end));
            }
            prop_assert_eq!(play(&kept), None);
            let alone: Vec<_> = calls.iter().map(|(_, end)| ("eve", *end)).collect();
            prop_assert_eq!(play(&alone), None);
        }

        #[test]
        fn what_is_remembered_is_bounded(callers in proptest::collection::vec(0..3_usize, 0..300)) {
            let mut faults = Faults::default();
            for (i, caller) in callers.iter().enumerate() {
                let caller = Arc::from(["me", "a", "b"][*caller]);
                faults.saw("me", &caller, i as i64, End::Fault("x"));
                prop_assert!(faults.0.len() <= 3 * FAULTS);
            }
        }
    }
}
