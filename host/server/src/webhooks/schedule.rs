//! When a webhook is sent again, and what an answer means. Pure.

use std::time::Duration;

use crate::outbound::OutboundError;

/// Seconds before each attempt.
const WAITS: [u64; 7] = [0, 5, 30, 120, 600, 3600, 6 * 3600];

/// The wait before the next attempt after `attempts` of them, up to a fifth longer by `random`, so that what failed together does not
/// come back together; `None` if there were enough.
pub(crate) fn next_attempt(attempts: u32, random: u64) -> Option<Duration> {
    let wait = Duration::from_secs(*WAITS.get(usize::try_from(attempts).ok()?)?);
    Some(wait + wait / 5 * u32::try_from(random % 1001).unwrap_or(0) / 1000)
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The receiver has it.
    Delivered,
    /// Again, after this long.
    Again(Duration),
    /// Given up.
    Dead,
    /// The server does not go there.
    Skipped,
}

/// Judges the outcome of an attempt; `attempts` counts it.
pub(crate) fn judge(outcome: &Result<u16, OutboundError>, attempts: u32, random: u64) -> Verdict {
    match outcome {
        Ok(200..300) => Verdict::Delivered,
        // Gone: the receiver asks for no more.
        Ok(410) => Verdict::Dead,
        Err(OutboundError::Refused(_)) => Verdict::Skipped,
        _ => next_attempt(attempts, random).map_or(Verdict::Dead, Verdict::Again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attempts_grow_apart_and_end() {
        let waits: Vec<_> = (0..10).map(|n| next_attempt(n, 0).map(|wait| wait.as_secs())).collect();
        let expected = [0, 5, 30, 120, 600, 3600, 21600].map(Some).into_iter().chain([None; 3]);
        assert_eq!(waits, expected.collect::<Vec<_>>());
        assert_eq!(next_attempt(u32::MAX, 7), None);
    }

    #[test]
    fn an_answer_decides_what_becomes_of_a_delivery() {
        for (outcome, attempts, verdict) in [
            (Ok(200), 1, Verdict::Delivered),
            (Ok(299), 7, Verdict::Delivered),
            (Ok(410), 1, Verdict::Dead),
            (Ok(301), 1, Verdict::Again(Duration::from_secs(5))),
            (Ok(199), 1, Verdict::Again(Duration::from_secs(5))),
            (Ok(404), 2, Verdict::Again(Duration::from_secs(30))),
            (Ok(500), 7, Verdict::Dead),
            (Err(OutboundError::Refused(String::new())), 1, Verdict::Skipped),
            (
                Err(OutboundError::NoAddress(String::new())),
                1,
                Verdict::Again(Duration::from_secs(5)),
            ),
            (
                Err(OutboundError::Timeout(Duration::ZERO)),
                6,
                Verdict::Again(Duration::from_secs(21600)),
            ),
            (Err(OutboundError::Failed(String::new())), 7, Verdict::Dead),
        ] {
            assert_eq!(judge(&outcome, attempts, 0), verdict, "{outcome:?} after {attempts}");
        }
    }

    proptest! {
        #[test]
        fn chance_makes_a_wait_longer_by_a_fifth_at_most(attempts in 0_u32..7, random: u64) {
            let (least, wait) = (next_attempt(attempts, 0), next_attempt(attempts, random));
            prop_assert!(wait >= least && wait <= least.map(|l| l + l / 5));
        }
    }
}
