//! What a request for a prediction says: its body, its headers, its version's name. Decisions without I/O.

use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::record::{Events, Webhook};
use crate::names::VersionId;
use crate::problem::Problem;
use crate::schema::FieldError;

/// How long a plain `Prefer: wait` holds: clients give up, and some ask again, after 60 s.
const WAIT: Duration = Duration::from_secs(55);

/// The longest `Prefer: wait=n`, in seconds.
const MAX_WAIT_S: u64 = 60;

/// How much earlier than asked for a reply leaves: clients wait hardly longer than they said.
const EARLY: Duration = Duration::from_millis(250);

/// The least and the most of `Cancel-After`.
const CANCEL_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(24 * 3600));

/// The longest idempotency key and webhook URL, in bytes.
const MAX_KEY: usize = 255;
const MAX_URL: usize = 2048;

/// The body of a request for a prediction. Members that are not known are left alone: clients send some of their own.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Body {
    /// As the caller names it; absent where the path names it.
    pub(crate) version: Option<String>,
    /// An object; `{}` if absent.
    pub(crate) input: Map<String, Value>,
    pub(crate) webhook: Option<Webhook>,
    /// From the member `lifetime`.
    pub(crate) lifetime: Option<Duration>,
    /// From the member `cache`: false asks for a fresh run.
    pub(crate) fresh: bool,
    /// The id that the caller chose.
    pub(crate) id: Option<String>,
}

impl Body {
    /// Reads a body.
    pub(crate) fn parse(body: Value) -> Result<Self, Problem> {
        let Value::Object(mut members) = body else {
            return Err(invalid("", "the body must be a JSON object"));
        };
        let version = text(&mut members, "version")?;
        let input = match members.remove("input") {
            Some(Value::Object(input)) => input,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err(invalid("input", "must be an object of the model's fields")),
        };
        let webhook = match text(&mut members, "webhook")? {
            Some(url) if !url.is_empty() => Some(Webhook {
                url: checked_url(url)?,
                events: events(members.remove("webhook_events_filter"))?,
            }),
            _ => None,
        };
        let lifetime = match text(&mut members, "lifetime")? {
            Some(text) => Some(
                parse_duration(&text)
                    .ok_or_else(|| invalid("lifetime", "expected a duration such as `30s`, `5m` or `1h30m`"))?,
            ),
            None => None,
        };
        let fresh = match members.remove("cache") {
            None | Some(Value::Null | Value::Bool(true)) => false,
            Some(Value::Bool(false)) => true,
            Some(_) => return Err(invalid("cache", "must be true or false")),
        };
        let id = text(&mut members, "id")?;
        Ok(Self {
            version,
            input,
            webhook,
            lifetime,
            fresh,
            id,
        })
    }
}

fn text(members: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, Problem> {
    match members.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(name, "must be a string")),
    }
}

/// The 422 of one field of a request's body.
pub(crate) fn invalid(field: &str, message: &str) -> Problem {
    Problem::invalid_input(&[FieldError {
        field: field.to_owned(),
        message: message.to_owned(),
    }])
}

fn checked_url(url: String) -> Result<String, Problem> {
    let plain = url.len() <= MAX_URL && url.bytes().all(|b| b.is_ascii_graphic());
    let http = url.starts_with("https://") || url.starts_with("http://");
    if plain && http {
        Ok(url)
    } else {
        Err(invalid("webhook", "must be an absolute http or https URL"))
    }
}

fn events(filter: Option<Value>) -> Result<Events, Problem> {
    let names = match filter {
        None | Some(Value::Null) => return Ok(Events::default_set()),
        Some(Value::Array(names)) => names,
        Some(_) => return Err(invalid("webhook_events_filter", "must be a list")),
    };
    let mut set = 0;
    for name in &names {
        let known = Events::NAMES
            .into_iter()
            .find(|(known, _)| Some(*known) == name.as_str());
        match known {
            Some((_, bit)) => set |= bit,
            None => {
                let message = "an event is one of start, output, logs, completed";
                return Err(invalid("webhook_events_filter", message));
            }
        }
    }
    Ok(Events(set))
}

/// How a caller names a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VersionName {
    /// 64 hex digits.
    Id(VersionId),
    /// `owner/name:…` with an id or alias, or `owner/name`.
    Model {
        /// `owner/name`.
        model: String,
        /// An id or alias.
        reference: Option<String>,
    },
}

impl VersionName {
    /// Reads a name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(id) = VersionId::parse(text) {
            return Some(Self::Id(id));
        }
        let (model, reference) = match text.split_once(':') {
            Some((model, reference)) if !reference.is_empty() => (model, Some(reference.to_owned())),
            Some(_) => return None,
            None => (text, None),
        };
        let (owner, name) = model.split_once('/')?;
        if owner.is_empty() || name.is_empty() || name.contains('/') {
            return None;
        }
        Some(Self::Model {
            model: model.to_owned(),
            reference,
        })
    }
}

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// How long to hold the reply, and the words to echo.
    pub(crate) wait: Option<(Duration, String)>,
    /// When to cancel, counted from the creation.
    pub(crate) cancel_after: Option<Duration>,
    /// Names the request, so that sending it twice does it once.
    pub(crate) key: Option<String>,
    /// A fresh run, whatever is in the cache.
    pub(crate) fresh: bool,
}

impl Wishes {
    /// Reads the headers.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("\u{0}"));
        let wait = match header("prefer") {
            Some(prefer) => parse_prefer(prefer)?,
            None => None,
        };
        let cancel_after = match header("cancel-after") {
            Some(text) => Some(cancel_after(text)?),
            None => None,
        };
        let key = match header("idempotency-key") {
            Some(key) if key.is_empty() || key.len() > MAX_KEY || key.contains('\u{0}') => {
                return Err(Problem::bad_request(format!(
                    "`Idempotency-Key` has 1 to {MAX_KEY} printable characters"
                )));
            }
            key => key.map(str::to_owned),
        };
        let no_store = header("cache-control").is_some_and(|control| {
            control
                .split(',')
                .any(|d| matches!(d.trim().to_ascii_lowercase().as_str(), "no-cache" | "no-store"))
        });
        let off = header("x-maquette-cache").is_some_and(|word| word.eq_ignore_ascii_case("off"));
        Ok(Self {
            wait,
            cancel_after,
            key,
            fresh: off || no_store,
        })
    }
}

/// Reads `Prefer`: how long to hold, of all that it may say.
fn parse_prefer(header: &str) -> Result<Option<(Duration, String)>, Problem> {
    for preference in header.split(',').map(str::trim) {
        if preference.eq_ignore_ascii_case("wait") {
            return Ok(Some((WAIT, "wait".to_owned())));
        }
        let Some((name, value)) = preference.split_once('=') else {
            continue;
        };
        if !name.trim().eq_ignore_ascii_case("wait") {
            continue;
        }
        let seconds: Option<u64> = value.trim().parse().ok();
        return match seconds.filter(|n| (1..=MAX_WAIT_S).contains(n)) {
            Some(n) => {
                let hold = Duration::from_secs(n).saturating_sub(EARLY).min(WAIT);
                Ok(Some((hold, format!("wait={n}"))))
            }
            None => Err(Problem::bad_request(
                "`Prefer: wait=n` takes 1 to 60 seconds; leave `Prefer` out to be answered at once",
            )),
        };
    }
    Ok(None)
}

fn cancel_after(text: &str) -> Result<Duration, Problem> {
    let (least, most) = CANCEL_AFTER;
    let wrong = || {
        Problem::bad_request(
            "`Cancel-After` takes seconds or a duration such as `90`, `30s`, `5m` or `1h30m45s`, from 5 s to 24 h",
        )
    };
    let duration = parse_duration(text).ok_or_else(wrong)?;
    if duration < least || duration > most {
        return Err(wrong());
    }
    Ok(duration)
}

/// Reads `90`, `30s`, `5m`, `2h30m`, `1h30m45s`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let mut total = 0_u64;
    let mut rest = text;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        if unit >= last {
            return None;
        }
        last = unit;
        total = total.checked_add(u64::from(number).checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (last != u64::MAX).then(|| Duration::from_secs(total))
}

/// An id that a caller may choose.
pub(crate) fn check_id(id: &str) -> Result<(), Problem> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if (1..=64).contains(&id.len()) && id.bytes().all(legal) {
        Ok(())
    } else {
        Err(Problem::bad_request(
            "a prediction's id has 1 to 64 letters, digits, `-` or `_`",
        ))
    }
}

/// What a request is, for telling whether another one is the same: its version, its input, its webhook.
pub(crate) fn fingerprint(version: VersionId, input: &Map<String, Value>, webhook: Option<&Webhook>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(version.0);
    let input = serde_json_canonicalizer::to_vec(input).unwrap_or_default();
    hash.update((input.len() as u64).to_le_bytes());
    hash.update(input);
    if let Some(hook) = webhook {
        hash.update([hook.events.0]);
        hash.update(&hook.url);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn durations_are_seconds_or_hours_minutes_seconds_in_this_order() {
        for (text, seconds) in [
            ("30", 30),
            ("30s", 30),
            ("5m", 300),
            ("2h30m", 9000),
            ("1h30m45s", 5445),
            (" 7s ", 7),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "-5", "5d", "5s5m", "5m5m", "1.5s", "5m5", "99999999999h", "é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    fn wishes(headers: &[(&'static str, &'static str)]) -> Result<Wishes, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        Wishes::read(&map)
    }

    #[test]
    fn a_wait_ends_before_the_client_gives_up() {
        let wait = |header| wishes(&[("prefer", header)]).map(|w| w.wait);
        let held = |ms, echo: &str| Some((Duration::from_millis(ms), echo.to_owned()));
        assert_eq!(wait("wait").unwrap(), held(55_000, "wait"));
        assert_eq!(wait("wait=1").unwrap(), held(750, "wait=1"));
        assert_eq!(wait("respond-async, wait=60").unwrap(), held(55_000, "wait=60"));
        assert_eq!(wait("respond-async").unwrap(), None);
        for bad in ["wait=0", "wait=61", "wait=x", "wait=-1", "wait=1.5"] {
            assert!(wait(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_refused_and_others_left_alone() {
        assert_eq!(wishes(&[]).unwrap(), Wishes::default());
        assert_eq!(
            wishes(&[("cancel-after", "1m")]).unwrap().cancel_after,
            Some(Duration::from_secs(60))
        );
        for bad in ["4", "25h", "soon", ""] {
            assert!(wishes(&[("cancel-after", bad)]).is_err(), "{bad}");
        }
        assert!(wishes(&[("idempotency-key", "")]).is_err());
        assert!(wishes(&[("x-maquette-cache", "off")]).unwrap().fresh);
        assert!(wishes(&[("cache-control", "max-age=0, no-cache")]).unwrap().fresh);
    }

    #[test]
    fn bodies_of_every_client_are_read() {
        let body = Body::parse(json!({
            "version": "o/n:v", "input": {"a": 1}, "webhook": "https://e.org/x", "webhook_events_filter": ["start", "completed"],
            "stream": true, "webhook_completed": "x", "lifetime": "5m", "cache": false, "unknown": {}
        }))
        .unwrap();
        assert_eq!(body.version.as_deref(), Some("o/n:v"));
        assert_eq!(body.webhook.unwrap().events, Events(Events::START | Events::COMPLETED));
        assert_eq!((body.lifetime, body.fresh), (Some(Duration::from_secs(300)), true));
        assert_eq!(Body::parse(json!({})).unwrap(), Body::default());
        for bad in [
            json!([]),
            json!({"input": []}),
            json!({"version": 3}),
            json!({"webhook": "ftp://x"}),
            json!({"webhook": "not a url"}),
            json!({"webhook": "https://x", "webhook_events_filter": ["nope"]}),
            json!({"webhook": "https://x", "webhook_events_filter": "start"}),
            json!({"lifetime": "soon"}),
            json!({"cache": "no"}),
        ] {
            assert!(Body::parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_is_named_by_id_by_model_or_by_both() {
        let id = "ab".repeat(32);
        let model = |model: &str, reference: Option<&str>| {
            Some(VersionName::Model {
                model: model.to_owned(),
                reference: reference.map(str::to_owned),
            })
        };
        assert_eq!(VersionName::parse(&id), VersionId::parse(&id).map(VersionName::Id));
        assert_eq!(VersionName::parse("o/n"), model("o/n", None));
        assert_eq!(VersionName::parse(&format!("o/n:{id}")), model("o/n", Some(&id)));
        assert_eq!(VersionName::parse("o/n:stable"), model("o/n", Some("stable")));
        for bad in ["", "n", "o/", "/n", "o/n/m", "o/n:", &id[1..]] {
            assert_eq!(VersionName::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_header_and_no_name_makes_trouble(text in "\\PC{0,40}") {
            let _ = (parse_duration(&text), VersionName::parse(&text), check_id(&text), parse_prefer(&text));
        }
    }
}
