//! Weights that come in several files: the guest opens one name and finds every tensor, whichever shard it is in.
//!
//! A version's manifest lists the first shard under the name itself and the others as `model#00002`, `model#00003` and so on. So a
//! version whose weights are whole files has the id that it always had, and whoever only moves blobs need know nothing of shards.
//! `#` is in no name that a contributor can give.

/// The most shards of all weights of a version together.
pub const MAX_SHARDS: usize = 512;

/// What a version's manifest calls a shard, from 1 on.
pub fn name(weights: &str, shard: usize) -> String {
    match shard {
        1 => weights.to_owned(),
        _ => format!("{weights}#{shard:05}"),
    }
}

/// The name that the guest uses and the shard's number, from 1 on; `None` if [`name`] makes no such name.
pub fn split(shard: &str) -> Option<(&str, usize)> {
    let Some((weights, number)) = shard.split_once('#') else {
        return Some((shard, 1));
    };
    let found = number.parse().ok().filter(|number| (2..=MAX_SHARDS).contains(number))?;
    (name(weights, found) == shard).then_some((weights, found))
}

/// A shard in words: `model`, or `model, shard 2`.
pub fn label(shard: &str) -> String {
    match split(shard) {
        Some((weights, number)) if number > 1 => format!("{weights}, shard {number}"),
        _ => shard.to_owned(),
    }
}

/// The table of `maquette.toml` that an entry is from, in words.
pub fn heading(kind: &str, shard: &str) -> String {
    match split(shard) {
        Some((weights, number)) if number > 1 => format!("shard {number} of [{kind}.{weights}]"),
        _ => format!("[{kind}.{shard}]"),
    }
}

/// Checks a manifest's names of shards, in their order: each follows the one before it.
pub(crate) fn check<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut before = ("", 0);
    for shard in names {
        let found = split(shard).ok_or_else(|| format!("`{shard}` is no name of weights or of a shard"))?;
        if found.1 > 1 && found != (before.0, before.1 + 1) {
            return Err(format!("`{shard}` does not follow `{}`", name(found.0, found.1 - 1)));
        }
        before = found;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn shards_have_one_spelling_and_are_in_order() {
        assert_eq!(
            (name("model", 1), name("model", 12)),
            ("model".into(), "model#00012".into())
        );
        assert_eq!(split("model"), Some(("model", 1)));
        assert_eq!(split(&name("a.b", 512)), Some(("a.b", 512)));
        for wrong in [
            "model#",
            "model#2",
            "model#00001",
            "model#00513",
            "model#+0002",
            "model#00002#00003",
            "#x",
        ] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
        let check = |names: &[&str]| check(names.iter().copied());
        check(&[]).unwrap();
        check(&["a", "a#00002", "a#00003", "a-b", "b"]).unwrap();
        for wrong in [
            &["a#00002"][..],
            &["a", "a#00003"],
            &["a", "b#00002"],
            &["a", "a#00002", "a#00002"],
            &["a", "a#x"],
        ] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_order_of_a_map_is_the_order_of_shards() {
        let names: Vec<String> = (1..=MAX_SHARDS).map(|n| name("m", n)).collect();
        let map: std::collections::BTreeSet<_> = names
            .iter()
            .cloned()
            .chain(["m-x".into(), "m.x".into(), "m0".into()])
            .collect();
        assert!(map.iter().zip(&names).all(|(a, b)| a == b));
    }
}
