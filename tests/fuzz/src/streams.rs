//! Streams of events: the id to go on from, and outputs and logs of any text. What is told is read again as a client would.

use arbitrary::{Arbitrary, Unstructured};
use maquette_server::fuzzing;

#[derive(Debug)]
struct Said {
    id: String,
    items: Vec<String>,
    lines: Vec<String>,
    error: Option<String>,
}

impl<'a> Arbitrary<'a> for Said {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let id = match u.int_in_range(0..=3)? {
            0 => u.arbitrary()?,
            1 => format!("{}:{}", u.arbitrary::<u64>()?, u.arbitrary::<u64>()?),
            _ => format!("{}:{}", u.int_in_range(0..=5)?, u.int_in_range(0..=40)?),
        };
        let texts = |u: &mut Unstructured<'a>| {
            let count = u.int_in_range(0..=4)?;
            (0..count)
                .map(|_| u.arbitrary())
                .collect::<arbitrary::Result<Vec<String>>>()
        };
        let mut items = texts(u)?;
        // An item is JSON, mostly a text.
        for item in &mut items {
            *item = serde_json::Value::from(item.as_str()).to_string();
        }
        Ok(Self {
            id,
            items,
            lines: texts(u)?,
            error: u.arbitrary()?,
        })
    }
}

pub(crate) fn run(data: &[u8]) {
    let Ok(said) = Said::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let refs = |texts: &'_ [String]| -> Vec<String> { texts.to_vec() };
    let (items, lines) = (refs(&said.items), refs(&said.lines));
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let Some(told) = fuzzing::stream(&said.id, &items, &lines, said.error.as_deref()) else {
        return;
    };
    let events = read(&told.text);
    let (name, id, _) = events.last().expect("a stream that has ended says so");
    assert_eq!(
        (name.as_str(), id),
        ("done", &told.next),
        "going on from the last event repeats or loses something"
    );
    assert_eq!(events.iter().filter(|(name, ..)| name == "done").count(), 1);
    let outputs: Vec<_> = events.iter().filter(|(name, ..)| name == "output").collect();
    assert_eq!(outputs.len(), told.news.0);
    for ((_, _, data), item) in outputs.iter().zip(&items[items.len() - told.news.0..]) {
        let plain: String = serde_json::from_str(item).unwrap();
        assert_eq!(
            *data,
            plain.replace('\r', "\n"),
            "an item has come through as something else"
        );
    }
    let again = fuzzing::stream(&told.next, &items, &lines, said.error.as_deref()).expect("an id that was given out");
    assert_eq!(again.news, (0, 0), "going on from the end tells something again");
}

/// Events as the HTML standard has a client read them: name, id, data.
fn read(text: &str) -> Vec<(String, String, String)> {
    let mut events = Vec::new();
    let (mut name, mut id, mut data) = (String::new(), String::new(), Vec::new());
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        if line.is_empty() {
            if !data.is_empty() {
                events.push((std::mem::take(&mut name), id.clone(), data.join("\n")));
                data.clear();
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => name = value.to_owned(),
            "id" => id = value.to_owned(),
            "data" => data.push(value.to_owned()),
            _ => panic!("a line that is no field: {line}"),
        }
    }
    assert!(data.is_empty() && name.is_empty(), "an event that does not end");
    events
}
