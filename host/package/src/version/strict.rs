//! What a version manifest must hold beyond having the right fields.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserializer;
use serde::de::{Error as _, MapAccess, Visitor};

use super::*;
use crate::shards;

/// Reads a map and refuses a key that comes twice: which one counted would depend on the reader.
pub(super) fn unique<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Blob>, D::Error> {
    struct Unique;
    impl<'de> Visitor<'de> for Unique {
        type Value = BTreeMap<String, Blob>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of names and blobs")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some((name, blob)) = map.next_entry::<String, Blob>()? {
                if found.contains_key(&name) {
                    return Err(A::Error::custom(format!("the name `{name}` comes twice")));
                }
                found.insert(name, blob);
            }
            Ok(found)
        }
    }
    deserializer.deserialize_map(Unique)
}

/// serde_json's message without its position, which the place of the error gives already.
pub(super) fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

/// Checks what types do not.
pub(super) fn check(m: &VersionManifest) -> Result<()> {
    let refuse = |place: String, what: String, help: &str| Err(Error::Version(Note::new(place, what, help)));
    if m.schema != SCHEMA {
        let what = format!("this build reads schema {SCHEMA}, not {}", m.schema);
        return refuse("schema".into(), what, "use the release of Maquette that wrote it");
    }
    if !names::valid(&m.name) {
        return refuse(
            "name".into(),
            format!("`{}` is not a name", short(&m.name)),
            names::RULE,
        );
    }
    if let Err(why) = semver::Version::parse(&m.version) {
        let what = format!("`{}` is not a semantic version ({why})", short(&m.version));
        return refuse("version".into(), what, "write three numbers, such as `1.0.0`");
    }
    let texts = [
        ("description", Some(&m.description), MAX_DESCRIPTION),
        ("license", m.license.as_ref(), 256),
        ("task", m.task.as_ref(), 64),
        ("version", Some(&m.version), 64),
    ];
    for (field, text, most) in texts {
        let Some(text) = text else { continue };
        if text.chars().count() > most {
            return refuse(
                field.into(),
                format!("more than {most} characters"),
                "put the rest into the README",
            );
        }
        if text
            .chars()
            .any(|c| c.is_control() && !(field == "description" && c == '\n'))
        {
            return refuse(field.into(), "it has control characters".into(), "write plain text");
        }
    }
    let whole = m.weights.keys().filter(|name| !name.contains('#')).count();
    let counts = [
        ("weights", whole, MAX_WEIGHTS),
        ("shards", m.weights.len(), MAX_WEIGHTS.max(shards::MAX_SHARDS)),
        ("assets", m.assets.len(), MAX_ASSETS),
        ("cases", m.cases.len(), MAX_CASES),
    ];
    for (field, count, most) in counts {
        if count > most {
            return refuse(field.into(), format!("{count} entries, at most {most} are allowed"), "");
        }
    }
    for (field, value) in m.limits.each() {
        if let Some(value) = value.filter(|v| *v == 0 || *v >= MAX_NUMBER) {
            return refuse(
                format!("limits.{field}"),
                format!("{value} is not above 0 and below 2^53"),
                "",
            );
        }
    }
    blobs(m)
}

/// Checks names and sizes of blobs, and that one digest has one size.
fn blobs(m: &VersionManifest) -> Result<()> {
    let refuse = |place: String, what: String, help: &str| Err(Error::Version(Note::new(place, what, help)));
    let named = |kind: &'static str, map: &BTreeMap<String, Blob>| -> Vec<(String, Blob, u64)> {
        map.iter()
            .map(|(name, blob)| (format!("{kind}.{}", short(name)), *blob, MAX_NUMBER))
            .collect()
    };
    if let Err(why) = shards::check(m.weights.keys().map(String::as_str)) {
        return refuse("weights".into(), short(&why), "number the shards of weights from 2 on");
    }
    let weights = m.weights.keys().filter_map(|name| Some(shards::split(name)?.0));
    for name in weights.chain(m.assets.keys().map(String::as_str)) {
        if !names::valid(name) {
            return refuse(
                "weights, assets".into(),
                format!("`{}` is not a name", short(name)),
                names::RULE,
            );
        }
    }
    let mut all = vec![("component".to_owned(), m.component, MAX_COMPONENT)];
    all.extend(named("weights", &m.weights));
    all.extend(named("assets", &m.assets));
    all.extend(
        m.cases
            .iter()
            .enumerate()
            .map(|(i, blob)| (format!("cases[{i}]"), *blob, MAX_TEXT)),
    );
    all.extend(m.readme.iter().map(|blob| ("readme".to_owned(), *blob, MAX_TEXT)));
    let mut sizes = HashMap::new();
    for (place, blob, most) in all {
        if blob.size == 0 || blob.size > most || blob.size >= MAX_NUMBER {
            let what = format!("a size of {} bytes is not between 1 and {most}", blob.size);
            return refuse(format!("{place}.size"), what, "");
        }
        if *sizes.entry(blob.sha256).or_insert(blob.size) != blob.size {
            let what = format!("the blob {} is listed with two sizes", blob.sha256);
            return refuse(format!("{place}.size"), what, "the same bytes have the same length");
        }
    }
    Ok(())
}

/// The beginning of a text that may be anything, for a message.
fn short(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
