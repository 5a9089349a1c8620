//! Whether a guest's text is JSON that every reader after it can take: no deeper than 127 lists and objects, every number finite,
//! every string whole.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// Checks a text without keeping anything of it.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn check(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<Checked>(text).map(drop)
}

/// A value that was looked at and let go. `IgnoredAny` would not look at depth, at the range of numbers or into strings.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self, E> {
        if number.is_finite() {
            Ok(self)
        } else {
            Err(E::custom("number out of range"))
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_passes_is_what_every_reader_takes() {
        for good in [
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1.5e300",
            "\"\\u00e9\"",
            "{\"a\":[1,{\"b\":null}]}",
            &format!("{}{}", "[".repeat(127), "]".repeat(127)),
        ] {
            check(good).unwrap();
            serde_json::from_str::<serde_json::Value>(good).unwrap();
        }
        for bad in [
            "",
            "NaN",
            "-Infinity",
            "1e999",
            "[1,]",
            "\"\\ud800\"",
            "\"\n\"",
            "{1:2}",
            "1 2",
            &format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)),
        ] {
            assert!(check(bad).is_err(), "{bad:.20}");
        }
    }
}
