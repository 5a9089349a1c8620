//! What must not be kept or told of one call: its secret inputs and its caller's own token. They are taken out of the input that is
//! recorded, and struck out of what the guest says: errors, logs, items and output. The guest itself has them.
//!
//! A guest that writes a secret in another form, or into a file, is not prevented from it: it was given the secret, and its output goes
//! to whoever gave it. What is struck out is what a model says in good faith.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::auth::PREFIX;
use crate::engine::{Event, Outcome};
use crate::schema::{self, Schema};

/// What stands in place of a secret.
const REDACTED: &str = "[REDACTED]";

/// Shorter texts are too common to be struck out of others.
const MIN_BYTES: usize = 4;

/// The secrets of one call.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// Whether there is anything that is not kept.
    found: bool,
    /// As they may stand in a text, the longest first.
    texts: Arc<[String]>,
}

impl Redactor {
    /// Takes secrets out of an input that is to be kept: fields that the schema calls secret, and the caller's own token wherever it
    /// stands.
    pub(crate) fn take(schema: &Value, input: &mut Value, token: Option<&str>) -> Self {
        let (mut found, mut texts) = (false, Vec::new());
        schema::visit_secrets(schema, input, &mut |_, value| {
            found = true;
            strings(value, &mut texts);
            *value = REDACTED.into();
        });
        if let Some(token) = token
            && strike(input, &|text| text.contains(token).then(|| REDACTED.to_owned()))
        {
            found = true;
            texts.push(token.to_owned());
        }
        Self {
            found,
            texts: forms(texts),
        }
    }

    /// As [`Redactor::take`], for an input that is kept nowhere.
    pub(crate) fn of(schema: &Schema, input: &Value, token: Option<&str>) -> Self {
        if schema.has_secrets() || token.is_some_and(|token| mentions(input, token)) {
            Self::take(schema.value(), &mut input.clone(), token)
        } else {
            Self::default()
        }
    }

    /// Whether nothing is secret.
    pub(crate) fn is_empty(&self) -> bool {
        !self.found
    }

    /// A text without them.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &*self.texts {
            if text.contains(secret) {
                text = text.replace(secret, REDACTED).into();
            }
        }
        text
    }

    /// JSON without them; as it was if none is in it.
    pub(crate) fn json(&self, json: String) -> String {
        if self.texts.is_empty() {
            return json;
        }
        let Ok(mut value) = serde_json::from_str(&json) else {
            return self.text(&json).into_owned();
        };
        let struck = strike(&mut value, &|text| match self.text(text) {
            Cow::Owned(struck) => Some(struck),
            Cow::Borrowed(_) => None,
        });
        if struck { value.to_string() } else { json }
    }

    /// What a guest says while it runs.
    pub(crate) fn event(&self, event: Event) -> Event {
        match event {
            Event::Log(mut line) => {
                line.message = self.text(&line.message).into_owned();
                Event::Log(line)
            }
            Event::Progress { fraction, message } => Event::Progress {
                fraction,
                message: self.text(&message).into_owned(),
            },
            Event::Item(json) => Event::Item(self.json(json)),
            // A file is the call's output, and its caller's alone.
            Event::File(file) => Event::File(file),
        }
    }

    /// How a call ended.
    pub(crate) fn outcome(&self, mut outcome: Outcome) -> Outcome {
        match &mut outcome.result {
            Ok(output) => output.json = self.json(std::mem::take(&mut output.json)),
            Err(failure) => {
                failure.message = self.text(&failure.message).into_owned();
                failure.detail = failure.detail.as_deref().map(|text| self.text(text).into_owned());
            }
        }
        for line in &mut outcome.report.logs {
            line.message = self.text(&line.message).into_owned();
        }
        let metrics = std::mem::take(&mut outcome.report.metrics).into_iter();
        outcome.report.metrics = metrics
            .map(|(name, value)| (self.text(&name).into_owned(), value))
            .collect();
        outcome
    }
}

fn mentions(value: &Value, token: &str) -> bool {
    match value {
        Value::String(text) => text.contains(token),
        Value::Array(items) => items.iter().any(|item| mentions(item, token)),
        Value::Object(fields) => fields.values().any(|field| mentions(field, token)),
        _ => false,
    }
}

/// Every text within a secret.
fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
        _ => {}
    }
}

/// Secrets as a text may hold them: as they are, line by line as logs are, and as JSON or a debugger writes them.
fn forms(secrets: Vec<String>) -> Arc<[String]> {
    let mut forms = Vec::new();
    for secret in secrets {
        let quoted = Value::from(secret.as_str()).to_string();
        forms.push(quoted[1..quoted.len() - 1].to_owned());
        if secret.contains('\n') {
            forms.extend(secret.lines().map(|line| line.trim().to_owned()));
        }
        forms.push(secret);
    }
    forms.retain(|form| form.len() >= MIN_BYTES);
    forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    forms.dedup();
    forms.into()
}

/// Replaces every text of a value, names included, for which `by` has something else. Whether there was one.
fn strike(value: &mut Value, by: &dyn Fn(&str) -> Option<String>) -> bool {
    match value {
        Value::String(text) => match by(text) {
            Some(struck) => {
                *text = struck;
                true
            }
            None => false,
        },
        Value::Array(items) => items.iter_mut().fold(false, |found, item| strike(item, by) | found),
        Value::Object(fields) => {
            let mut found = false;
            let names: Vec<_> = fields
                .keys()
                .filter_map(|name| Some((name.clone(), by(name)?)))
                .collect();
            for (name, struck) in names {
                if let Some(inner) = fields.remove(&name) {
                    fields.insert(struck, inner);
                    found = true;
                }
            }
            fields
                .values_mut()
                .fold(found, |found, field| strike(field, by) | found)
        }
        _ => false,
    }
}

/// A text of a client's, such as a path, without what looks like a token or a webhook's key.
pub(crate) fn without_tokens(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for prefix in [PREFIX, "whsec_"] {
        if !text.contains(prefix) {
            continue;
        }
        let mut parts = text.split(prefix);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            out.push_str(REDACTED);
            out.push_str(part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+/=_-%".contains(c)));
        }
        text = out.into();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_taken_out_of_what_is_kept() {
        let schema = json!({"type": "object", "properties": {
            "key": {"type": "string", "format": "password"}, "old": {"type": "string", "x-cog-secret": true},
            "inner": {"allOf": [{"$ref": "#/$defs/Inner"}]}, "list": {"type": "array", "items": {"type": "string", "format": "password"}},
            "mixed": {"$ref": "#/$defs/Plain", "x-cog-secret": true}, "pair": {"prefixItems": [{"type": "string"}, {"format": "password"}]},
            "map": {"additionalProperties": {"format": "password"}},
            "text": {"type": "string"}, "number": {"type": "integer", "format": "password"}},
            "$defs": {"Inner": {"properties": {"pin": {"anyOf": [{"type": "string", "format": "password"}, {"type": "null"}]}}},
                "Plain": {"type": "string"}}});
        let mut input = json!({"key": "hunter2", "old": "sesame", "inner": {"pin": "0000"}, "list": ["one1", "two2"], "mixed": "mixed!",
            "pair": ["open", "shut"], "map": {"a": "mapped"}, "text": "with mqt_abcdef inside", "number": 5});
        let redactor = Redactor::take(&schema, &mut input, Some("mqt_abcdef"));
        assert!(!redactor.is_empty());
        let r = REDACTED;
        assert_eq!(
            input,
            json!({"key": r, "old": r, "inner": {"pin": r}, "list": [r, r], "mixed": r, "pair": ["open", r], "map": {"a": r},
                "text": r, "number": r})
        );
        for secret in [
            "hunter2",
            "sesame",
            "0000",
            "one1",
            "two2",
            "mixed!",
            "shut",
            "mapped",
            "mqt_abcdef",
        ] {
            assert_eq!(redactor.text(&format!("a {secret} b")), "a [REDACTED] b", "{secret}");
        }
        assert_eq!(redactor.text("open"), "open");

        let mut nothing = json!({"key": null, "text": "plain"});
        let redactor = Redactor::take(&schema, &mut nothing, Some("mqt_abcdef"));
        assert!(redactor.is_empty() && nothing == json!({"key": null, "text": "plain"}));
    }

    #[test]
    fn secrets_are_struck_out_in_whatever_form_a_guest_says_them_in_good_faith() {
        let schema = json!({"properties": {"key": {"format": "password"}, "pem": {"format": "password"}}});
        let mut input = json!({"key": "say \"friend\"", "pem": "-----BEGIN-----\nAAAABBBB\n-----END-----"});
        let redactor = Redactor::take(&schema, &mut input, None);
        for (said, told) in [
            (r#"bad key say "friend"!"#, "bad key [REDACTED]!"),
            (r#"bad key "say \"friend\"""#, r#"bad key "[REDACTED]""#),
            ("line AAAABBBB", "line [REDACTED]"),
        ] {
            assert_eq!(redactor.text(said), told);
        }
        let json =
            json!({"a": ["say \"friend\"", 1.5], "x say \"friend\"": "-----BEGIN-----\nAAAABBBB\n-----END-----"});
        let told: Value = serde_json::from_str(&redactor.json(json.to_string())).unwrap();
        assert_eq!(told, json!({"a": [REDACTED, 1.5], "x [REDACTED]": REDACTED}));
        let untouched = r#"{"n": 1.50, "b":true}"#;
        assert_eq!(redactor.json(untouched.to_owned()), untouched, "as it was written");
    }

    #[test]
    fn what_looks_like_a_token_is_not_shown() {
        for (text, shown) in [
            ("/v1/tokens/mqt_abcdefgh234", "/v1/tokens/[REDACTED]"),
            ("/v1/x/whsec_AAAA+/=/y mqt_a", "/v1/x/[REDACTED] [REDACTED]"),
            ("/v1/models/a/b", "/v1/models/a/b"),
        ] {
            assert_eq!(without_tokens(text), shown);
        }
    }
}
