//! Files as forms. An input is the content type, a line, and the form, which comes in pieces of sizes that its first byte decides.

use std::sync::{Mutex, OnceLock, PoisonError};

use maquette_server::fuzzing::Uploads;

/// The largest file of an input, in bytes.
const LARGEST: u64 = 1024;

struct Server {
    uploads: Uploads,
    _data: tempfile::TempDir,
}

pub(crate) fn run(data: &[u8]) {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let data = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(data.path(), LARGEST).unwrap();
        Mutex::new(Server { uploads, _data: data })
    });
    let Some((head, form)) = data
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|at| (&data[..at], &data[at + 1..]))
    else {
        return;
    };
    let size = 1 + head.last().map_or(0, |byte| usize::from(*byte) * 7 % 61);
    for size in [form.len().max(1), size] {
        let pieces = form.chunks(size).map(<[u8]>::to_vec).collect();
        let server = server.lock().unwrap_or_else(PoisonError::into_inner);
        match server.uploads.read(head, pieces) {
            Ok((name, content_type, metadata)) => {
                assert!(
                    (1..=255).contains(&name.len()) && !name.contains(['/', '\\', '\0', '\n']),
                    "{name:?}"
                );
                assert!(
                    content_type.len() <= 128 && content_type.contains('/'),
                    "{content_type:?}"
                );
                let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
                assert!(metadata.is_object());
            }
            Err(refusal) => {
                let refusal: serde_json::Value = serde_json::from_str(&refusal).unwrap();
                let status = refusal["status"].as_u64().unwrap();
                assert!((400..500).contains(&status), "a caller's fault is told as {refusal}");
            }
        }
    }
}
