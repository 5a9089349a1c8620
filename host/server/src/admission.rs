//! Whether a call is let in: a pure decision over what is running and waiting. Whoever cannot be served in time is told at
//! once, and when to come back.

use std::time::Duration;

/// What the queue may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Calls that run at once in the foreground.
    pub(crate) lanes: usize,
    /// Calls that may wait.
    pub(crate) queue: usize,
    /// The longest predicted wait.
    pub(crate) wait: Duration,
    /// Bytes of waiting inputs.
    pub(crate) bytes: u64,
}

/// What is running and waiting now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Calls running in the foreground.
    pub(crate) running: usize,
    /// Predicted time of all running calls, in microseconds.
    pub(crate) running_us: u64,
    /// Calls waiting.
    pub(crate) queued: usize,
    /// Predicted time of all waiting calls, in microseconds.
    pub(crate) queued_us: u64,
    /// Bytes of all waiting inputs.
    pub(crate) queued_bytes: u64,
    /// Calls of this tenant that wait.
    pub(crate) tenant_queued: usize,
    /// Predicted time of the calls of this tenant that wait, in microseconds.
    pub(crate) tenant_queued_us: u64,
    /// Tenants with calls waiting, this one included.
    pub(crate) tenants: usize,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It runs or waits.
    Admit,
    /// Its tenant has its share of the queue already (429).
    OverShare {
        /// Seconds until that has likely changed.
        retry_after: u64,
    },
    /// The server has no room (503).
    Full {
        /// Seconds until that has likely changed.
        retry_after: u64,
    },
}

/// Decides about a call whose input takes `bytes`.
///
/// A tenant may hold at most half of the queue, and with several tenants waiting an equal part of it, so that whoever holds
/// nothing yet always finds room before the queue is full. A free lane takes anybody.
pub(crate) fn decide(bounds: &Bounds, load: &Load, bytes: u64) -> Decision {
    if load.running < bounds.lanes && load.queued == 0 {
        return Decision::Admit;
    }
    let lanes = bounds.lanes.max(1) as u64;
    let sharers = load.tenants.max(2);
    let share = (bounds.queue / sharers).max(1);
    if load.tenant_queued >= share {
        // Among equals each tenant gets its part of the lanes.
        let drain_us = load.tenant_queued_us.saturating_mul(load.tenants.max(1) as u64) / lanes;
        return Decision::OverShare {
            retry_after: seconds(drain_us),
        };
    }
    let drain_us = load.queued_us.saturating_add(load.running_us) / lanes;
    let too_long = u128::from(drain_us) > bounds.wait.as_micros();
    let too_big = load.queued_bytes.saturating_add(bytes) > bounds.bytes;
    if load.queued >= bounds.queue || too_long || too_big {
        return Decision::Full {
            retry_after: seconds(drain_us),
        };
    }
    Decision::Admit
}

/// Whole seconds, at least one and at most an hour.
fn seconds(us: u64) -> u64 {
    us.div_ceil(1_000_000).clamp(1, 3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        lanes: 2,
        queue: 10,
        wait: Duration::from_secs(10),
        bytes: 1000,
    };

    #[test]
    fn decisions() {
        use Decision::{Admit, Full, OverShare};
        let busy = Load {
            running: 2,
            running_us: 2_000_000,
            tenants: 1,
            ..Load::default()
        };
        let table = [
            ("an idle server takes anything", Load::default(), 5000, Admit),
            (
                "a free lane takes anything",
                Load {
                    running: 1,
                    running_us: u64::MAX,
                    ..busy
                },
                10,
                Admit,
            ),
            ("a busy one queues", busy, 10, Admit),
            (
                "a queue that is full is full",
                Load {
                    queued: 10,
                    tenants: 6,
                    queued_us: 8_000_000,
                    ..busy
                },
                0,
                Full { retry_after: 5 },
            ),
            (
                "a wait that is too long is refused early",
                Load {
                    queued: 1,
                    tenants: 1,
                    queued_us: 19_000_000,
                    ..busy
                },
                0,
                Full { retry_after: 11 },
            ),
            (
                "inputs have their own bound",
                Load {
                    queued: 1,
                    tenants: 1,
                    queued_bytes: 990,
                    ..busy
                },
                11,
                Full { retry_after: 1 },
            ),
            (
                "half the queue is one tenant's share",
                Load {
                    queued: 5,
                    tenant_queued: 5,
                    tenant_queued_us: 6_000_000,
                    ..busy
                },
                0,
                OverShare { retry_after: 3 },
            ),
            (
                "shares shrink as tenants come",
                Load {
                    queued: 6,
                    tenants: 3,
                    tenant_queued: 3,
                    tenant_queued_us: 2_000_000,
                    ..busy
                },
                0,
                OverShare { retry_after: 3 },
            ),
            (
                "a full queue is still the greedy tenant's fault",
                Load {
                    queued: 10,
                    tenants: 2,
                    tenant_queued: 9,
                    ..busy
                },
                0,
                OverShare { retry_after: 1 },
            ),
            (
                "who holds nothing finds room",
                Load {
                    queued: 9,
                    tenants: 4,
                    ..busy
                },
                0,
                Admit,
            ),
        ];
        for (promise, load, bytes, expected) in table {
            assert_eq!(decide(&BOUNDS, &load, bytes), expected, "{promise}");
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_and_every_refusal_says_when_to_return(
            running in 0_usize..4, queued in 0_usize..20, tenant_queued in 0_usize..20, tenants in 0_usize..8,
            queued_us: u64, running_us: u64, queued_bytes in 0_u64..2000, bytes in 0_u64..2000, tenant_queued_us: u64,
        ) {
            let load = Load { running, running_us, queued, queued_us, queued_bytes, tenant_queued, tenant_queued_us, tenants };
            match decide(&BOUNDS, &load, bytes) {
                Decision::Admit => {
                    let free = running < BOUNDS.lanes && queued == 0;
                    prop_assert!(free || (queued < BOUNDS.queue && queued_bytes + bytes <= BOUNDS.bytes));
                    prop_assert!(free || tenant_queued < BOUNDS.queue.div_ceil(2));
                }
                Decision::OverShare { retry_after } | Decision::Full { retry_after } => {
                    prop_assert!((1..=3600).contains(&retry_after));
                    prop_assert!(queued > 0 || running >= BOUNDS.lanes);
                }
            }
        }
    }
}
