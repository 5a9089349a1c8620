//! The names that paths are made of: owners, models, aliases and version ids.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest owner, model or alias name, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// A version's id: the sha256 of its canonical manifest. Text form: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct VersionId(pub(crate) [u8; 32]);

impl VersionId {
    /// Reads 64 lower-case hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for VersionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VersionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a version id is 64 lower-case hex digits"))
    }
}

/// Checks an owner's or a model's name: lower-case letters, digits, `-`, `_` and `.`, starting with a letter or digit.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let starts = name
        .as_bytes()
        .first()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if starts && name.len() <= MAX_NAME_BYTES && name.bytes().all(legal) {
        return Ok(());
    }
    Err(format!(
        "{what} `{}` is not a name: use 1 to {MAX_NAME_BYTES} of a-z, 0-9, `-`, `_`, `.`, starting with a letter or digit",
        shown(name)
    ))
}

/// Checks an alias: as a name, but upper-case letters and `+` (semantic versions) are allowed, and nothing that looks like an id.
pub(crate) fn check_alias(alias: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    let starts = alias.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    let id = alias.len() == 64 && alias.bytes().all(|b| b.is_ascii_hexdigit());
    if starts && alias.len() <= MAX_NAME_BYTES && alias.bytes().all(legal) && !id {
        return Ok(());
    }
    Err(format!(
        "`{}` is not an alias: use 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, `-`, `_`, `.`, `+`, starting with a letter or digit, and no \
         version id",
        shown(alias)
    ))
}

/// A name from outside, cut and cleaned for a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_NAME_BYTES)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_cannot_leave_their_path_segment() {
        for good in ["a", "minilm-l6", "0x", "a_b.c"] {
            check_name("model", good).unwrap();
        }
        for bad in ["", ".", "..", "-a", "A", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(check_name("model", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_alias_is_never_mistaken_for_an_id() {
        for good in ["latest", "1.2.3-rc.1+build5", "V2"] {
            check_alias(good).unwrap();
        }
        for bad in ["", "+1", "a/b", &"a".repeat(64), &"0F".repeat(32)] {
            assert!(check_alias(bad).is_err(), "{bad:?}");
        }
        assert!(VersionId::parse(&"a".repeat(64)).is_some());
        assert!(VersionId::parse(&"A".repeat(64)).is_none());
        assert!(VersionId::parse("latest").is_none());
    }
}
