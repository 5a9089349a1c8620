//! Pages of what an owner has, newest first, for lists that are read from the database.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::problem::Problem;

/// Results on a page.
pub(crate) const PAGE: usize = 100;

/// The place in the order of creation that a page begins behind: that of the last result before it.
pub(crate) fn before(cursor: Option<&str>) -> Result<(i64, String), Problem> {
    let Some(cursor) = cursor else {
        return Ok((i64::MAX, String::new()));
    };
    let text = hex::decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.as_deref().and_then(|text| text.split_once(' '));
    let place = place.and_then(|(at, id)| Some((at.parse().ok()?, id.to_owned())));
    place.ok_or_else(|| Problem::bad_request("`cursor` is not one that this server gave out"))
}

/// One page. `found` holds up to one result more than a page, each with its place; `url` is absolute and `filters` are what the next
/// page has to be asked for as well.
pub(crate) fn page(url: &str, filters: &[(&str, Option<&str>)], mut found: Vec<((i64, String), Value)>) -> Value {
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let next = found.last().filter(|_| more).map(|((at, id), _)| {
        let mut next = format!("{url}?cursor={}", hex::encode(format!("{at} {id}")));
        for (name, value) in filters {
            if let Some(value) = value {
                let escaped: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                let _ = write!(next, "&{name}={escaped}");
            }
        }
        next
    });
    let results: Vec<Value> = found.into_iter().map(|(_, value)| value).collect();
    json!({"next": next, "previous": null, "results": results})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_leads_to_the_next_with_what_was_asked_for() {
        let found = |n: i64| {
            (0..n)
                .map(|i| ((n - i, format!("id{i}")), json!(i)))
                .collect::<Vec<_>>()
        };
        assert_eq!(page("http://h/x", &[], found(100))["next"], Value::Null);
        let first = page("http://h/x", &[("state", Some("a&b")), ("other", None)], found(101));
        let next = first["next"].as_str().unwrap();
        let cursor = next
            .strip_prefix("http://h/x?cursor=")
            .and_then(|n| n.strip_suffix("&state=a%26b"))
            .unwrap();
        assert_eq!(before(Some(cursor)).unwrap(), (2, "id99".to_owned()));
        assert_eq!(first["results"].as_array().map(Vec::len), Some(PAGE));
        assert_eq!(before(None).unwrap(), (i64::MAX, String::new()));
        for bad in ["", "zz", "00", &hex::encode("x y")] {
            assert!(before(Some(bad)).is_err(), "{bad}");
        }
    }
}
