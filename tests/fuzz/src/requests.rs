//! Requests for predictions: headers, one a line as HTTP writes them, an empty line, and the body.

use maquette_server::fuzzing;

pub(crate) fn run(data: &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((&[][..], data), |at| (&data[..at], &data[at + 2..]));
    let headers: Vec<(&str, &[u8])> = head
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((
                std::str::from_utf8(&line[..colon]).ok()?,
                line[colon + 1..].trim_ascii(),
            ))
        })
        .collect();
    if let Err(refusal) = fuzzing::prediction(&fuzzing::headers(&headers), body) {
        let refusal: serde_json::Value = serde_json::from_str(&refusal).unwrap();
        let status = refusal["status"].as_u64().unwrap();
        assert!((400..500).contains(&status), "a caller's fault is told as {status}");
    }
}
