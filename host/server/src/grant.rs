//! What a version may use: the least of what it asks for, what the operator allows and what this machine has, and which of them
//! decided. And what a version asks for beyond the one before it.
//!
//! The grant in force is computed again whenever a version is opened, so that it follows the operator's settings and the machine.
//! What was granted when the version was published is kept with it, and shown beside.

use std::collections::BTreeMap;

use maquette_package::version::Limits as Asked;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Grant;
use crate::engine::{Limits, MAX_MEMORY_BYTES};

/// What the server has of that which versions ask for, in bytes; nothing where nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// For the guests' linear memories.
    pub(crate) memory_bytes: Option<u64>,
    /// Where tensors live.
    pub(crate) tensor_bytes: Option<u64>,
}

impl Present {
    /// What one call can have on this server of the machine's memory. Tensors share it, unless they live on a device of their own, of
    /// whose memory nothing is known before it is used up.
    pub(crate) fn new(memory_bytes: u64, tensors_in_memory: bool) -> Self {
        Self {
            // A sandbox has address space for so much, whatever the machine has.
            memory_bytes: Some(memory_bytes.min(MAX_MEMORY_BYTES)),
            tensor_bytes: tensors_in_memory.then_some(memory_bytes),
        }
    }
}

/// What versions can get on this server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// By the operator's settings.
    pub(crate) allowed: Grant,
    /// Of the machine.
    pub(crate) present: Present,
}

/// Which of the bounds is the least; the first of them if several are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Why {
    /// The manifest asks for no more.
    Asked,
    /// The manifest does not say, and this is what it gets then.
    Default,
    /// The operator allows no more.
    Allowed,
    /// The machine has no more.
    Present,
}

/// What is granted of one thing. Milliseconds or bytes, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    /// What a call may use.
    pub(crate) granted: u64,
    /// What decided that.
    pub(crate) why: Why,
    /// By the manifest, if it says.
    pub(crate) asked: Option<u64>,
    /// By the operator.
    pub(crate) allowed: u64,
    /// On the machine, if anybody knows.
    pub(crate) present: Option<u64>,
}

/// Everything that is granted, by the names of a manifest's limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Granted(pub(crate) BTreeMap<String, Share>);

/// The least of what is asked for, allowed and present, field by field.
pub(crate) fn grant(asked: &Asked, offer: &Offer) -> Granted {
    let default = Limits::default();
    let Offer { allowed, present } = offer;
    let fields = [
        (
            "timeout_ms",
            asked.timeout_ms,
            default.timeout_ms,
            allowed.timeout_ms,
            None,
        ),
        (
            "memory_bytes",
            asked.memory_bytes,
            default.memory_bytes,
            allowed.memory_bytes,
            present.memory_bytes,
        ),
        (
            "tensor_bytes",
            asked.tensor_bytes,
            default.tensor_bytes,
            allowed.tensor_bytes,
            present.tensor_bytes,
        ),
        (
            "output_bytes",
            asked.output_bytes,
            default.output_bytes,
            allowed.output_bytes,
            None,
        ),
        (
            "file_bytes",
            asked.file_bytes,
            default.file_bytes,
            allowed.file_bytes,
            None,
        ),
        ("log_bytes", asked.log_bytes, default.log_bytes, allowed.log_bytes, None),
    ];
    let shares = fields.map(|(name, asked, default, allowed, present)| {
        let wanted = match asked {
            Some(asked) => (asked, Why::Asked),
            None => (default, Why::Default),
        };
        let mut least = wanted;
        for bound in [(allowed, Why::Allowed), (present.unwrap_or(u64::MAX), Why::Present)] {
            if bound.0 < least.0 {
                least = bound;
            }
        }
        let (granted, why) = least;
        let share = Share {
            granted,
            why,
            asked,
            allowed,
            present,
        };
        (name.to_owned(), share)
    });
    Granted(shares.into())
}

impl Granted {
    /// As the sandbox enforces it.
    pub(crate) fn limits(&self) -> Limits {
        let of = |name: &str| self.0.get(name).map_or(0, |share| share.granted);
        Limits {
            timeout_ms: of("timeout_ms"),
            memory_bytes: of("memory_bytes"),
            tensor_bytes: of("tensor_bytes"),
            output_bytes: of("output_bytes"),
            file_bytes: of("file_bytes"),
            log_bytes: of("log_bytes"),
        }
    }
}

/// What a version asks for beyond another: fields with their values before and now. What the operator allows has no part in it, for
/// that may change. Interfaces of components that were looked at before these were noted are not compared.
pub(crate) fn growth(before: (&Asked, Option<&[String]>), now: (&Asked, Option<&[String]>)) -> Vec<Value> {
    let offer = Offer {
        allowed: Grant::unlimited(),
        present: Present::default(),
    };
    let (old, new) = (grant(before.0, &offer), grant(now.0, &offer));
    let limits = new.0.iter().filter_map(|(field, share)| {
        let before = old.0.get(field).map_or(0, |share| share.granted);
        (share.granted > before).then(|| json!({"field": field, "before": before, "now": share.granted}))
    });
    let mut grew: Vec<Value> = limits.collect();
    if let (Some(old), Some(new)) = (before.1, now.1)
        && new.iter().any(|import| !old.contains(import))
    {
        grew.push(json!({"field": "imports", "before": old, "now": new}));
    }
    grew
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn timeout(asked: Option<u64>, allowed: u64) -> Share {
        let asked = Asked {
            timeout_ms: asked,
            ..Asked::default()
        };
        let mut offer = Offer::default();
        offer.allowed.timeout_ms = allowed;
        grant(&asked, &offer).0["timeout_ms"]
    }

    #[test]
    fn the_least_is_granted_and_says_whose_it_is() {
        for (asked, allowed, granted, why) in [
            (Some(5), 10, 5, Why::Asked),
            (Some(10), 10, 10, Why::Asked),
            (Some(11), 10, 10, Why::Allowed),
            (None, 10, 10, Why::Allowed),
            (None, u64::MAX, Limits::default().timeout_ms, Why::Default),
        ] {
            let share = timeout(asked, allowed);
            assert_eq!((share.granted, share.why), (granted, why), "{asked:?} {allowed}");
        }
        let asked = Asked {
            memory_bytes: Some(500),
            tensor_bytes: Some(500),
            ..Asked::default()
        };
        let mut offer = Offer::default();
        (offer.present.memory_bytes, offer.present.tensor_bytes) = (Some(70), None);
        let granted = grant(&asked, &offer);
        assert_eq!(
            (granted.0["memory_bytes"].granted, granted.0["memory_bytes"].why),
            (70, Why::Present)
        );
        assert_eq!(granted.limits().tensor_bytes, 500, "what nobody knows bounds nothing");
    }

    #[test]
    fn what_was_granted_reads_back() {
        let granted = grant(&Asked::default(), &Offer::default());
        let json = serde_json::to_string(&granted).unwrap();
        assert_eq!(serde_json::from_str::<Granted>(&json).unwrap(), granted);
    }

    #[test]
    fn growth_is_more_of_anything_and_another_interface() {
        let asks = |timeout_ms| Asked {
            timeout_ms,
            ..Asked::default()
        };
        let default = Limits::default().timeout_ms;
        for (before, now, grows) in [
            (Some(5), Some(5), false),
            (Some(5), Some(4), false),
            (Some(5), Some(6), true),
            (None, Some(default), false),
            (None, Some(default + 1), true),
            (Some(default - 1), None, true),
        ] {
            let grew = growth((&asks(before), None), (&asks(now), None));
            assert_eq!(!grew.is_empty(), grows, "{before:?} {now:?}");
        }
        let (one, two) = (["a/run".to_owned()], ["a/files".to_owned(), "a/run".to_owned()]);
        let none = Asked::default();
        let grew = growth((&none, Some(&one)), (&none, Some(&two)));
        assert_eq!(grew, [json!({"field": "imports", "before": one, "now": two})]);
        assert!(
            growth((&none, Some(&two)), (&none, Some(&one))).is_empty(),
            "fewer are fine"
        );
        assert!(growth((&none, None), (&none, Some(&two))).is_empty(), "not known");
    }

    fn any() -> impl Strategy<Value = Asked> {
        let one = || proptest::option::of(0..1_u64 << 53);
        (one(), one(), one(), one(), one(), one()).prop_map(
            |(timeout_ms, memory_bytes, tensor_bytes, output_bytes, file_bytes, log_bytes)| Asked {
                timeout_ms,
                memory_bytes,
                tensor_bytes,
                output_bytes,
                file_bytes,
                log_bytes,
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_is_granted_beyond_any_bound(asked in any(), allowed in 0_u64..1 << 40, present in 0_u64..1 << 40) {
            let mut offer = Offer::default();
            (offer.allowed.memory_bytes, offer.present.memory_bytes) = (allowed, Some(present));
            for share in grant(&asked, &offer).0.values() {
                prop_assert!(share.granted <= share.allowed && share.granted <= share.present.unwrap_or(u64::MAX));
                prop_assert!(share.asked.is_none_or(|asked| share.granted <= asked));
            }
        }

        #[test]
        fn what_did_not_grow_is_granted_no_more_whatever_the_server_allows(
            before in any(), now in any(), allowed in 0_u64..1 << 54, present in 0_u64..1 << 54
        ) {
            let mut offer = Offer::default();
            (offer.allowed.memory_bytes, offer.present.memory_bytes) = (allowed, Some(present));
            let grew = growth((&before, None), (&now, None));
            let (before, now) = (grant(&before, &offer), grant(&now, &offer));
            for (field, share) in &now.0 {
                prop_assert!(share.granted <= before.0[field].granted || grew.iter().any(|g| g["field"] == **field));
            }
        }
    }
}
