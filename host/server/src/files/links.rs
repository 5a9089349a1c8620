//! URLs of files: made, signed, and recognised when a caller sends them back. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use url::Url;

use crate::secrets::Secrets;

/// What signatures of files are for, among all that the server signs.
const PURPOSE: &str = "file-download";

/// A link that works without a token, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// Which file.
    pub(crate) id: String,
    /// Whose.
    pub(crate) owner: String,
    /// Unix seconds.
    pub(crate) expiry: i64,
    /// Base64 of the HMAC-SHA256.
    pub(crate) signature: String,
}

fn message(owner: &str, id: &str, expiry: i64) -> String {
    format!("{owner} {id} {expiry}")
}

/// The absolute URL of a file's bytes, good until `expires_at` (Unix milliseconds).
pub(crate) fn download(secrets: &Secrets, origin: &str, owner: &str, id: &str, expires_at: i64) -> String {
    let expiry = expires_at.div_euclid(1000);
    let signature = URL_SAFE_NO_PAD.encode(secrets.sign(PURPOSE, &message(owner, id, expiry)));
    // Owners' names need no escaping; see `names`.
    format!("{origin}/v1/files/{id}/download?owner={owner}&expiry={expiry}&signature={signature}")
}

/// The absolute URL of a file's metadata.
pub(crate) fn metadata(origin: &str, id: &str) -> String {
    format!("{origin}/v1/files/{id}")
}

impl Signed {
    /// Whether the signature is ours, for just this, and still good at `now` (Unix milliseconds).
    pub(crate) fn holds(&self, secrets: &Secrets, now: i64) -> bool {
        let decoded = URL_SAFE_NO_PAD
            .decode(&self.signature)
            .or_else(|_| STANDARD.decode(&self.signature));
        let ours =
            |signature: Vec<u8>| secrets.verify(PURPOSE, &message(&self.owner, &self.id, self.expiry), &signature);
        self.expiry > now.div_euclid(1000) && decoded.is_ok_and(ours)
    }
}

/// A URL of this very server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// A file of the caller's.
    Metadata(String),
    /// A file, proven by a signature.
    Signed(Signed),
    /// Anything else; nothing that an input may name.
    Other,
}

/// What a URL means if its host is one of these origins (`scheme://host[:port]`), under any of the API's mounts. The scheme does not
/// matter: a proxy in front may speak another one.
pub(crate) fn own(url: &Url, origins: &[&str]) -> Option<Own> {
    let same = |origin: &Url| origin.host_str() == url.host_str() && origin.port() == url.port();
    origins.iter().filter_map(|origin| Url::parse(origin).ok()).find(same)?;
    let mut path = url.path();
    while let Some(rest) = path.strip_prefix("/v1/").filter(|_| path.len() < 256) {
        path = &path[path.len() - rest.len() - 1..];
    }
    let mut parts = path.strip_prefix("/files/").unwrap_or_default().split('/');
    let id = parts.next().filter(|id| is_id(id)).map(str::to_owned);
    Some(match (id, parts.next(), parts.next()) {
        (Some(id), None | Some(""), None) => Own::Metadata(id),
        (Some(id), Some("download"), None) => signed(url, id).map_or(Own::Other, Own::Signed),
        _ => Own::Other,
    })
}

fn signed(url: &Url, id: String) -> Option<Signed> {
    let value = |name: &str| {
        url.query_pairs()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.into_owned())
    };
    Some(Signed {
        id,
        owner: value("owner")?,
        expiry: value("expiry")?.parse().ok()?,
        signature: value("signature")?,
    })
}

/// Whether a text may be the id of a file.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: &str = "abcdefghijklmnopqrstuvwxyz";

    fn read(text: &str, origins: &[&str]) -> Option<Own> {
        own(&Url::parse(text).unwrap(), origins)
    }

    #[test]
    fn own_urls_are_known_by_host_and_path_under_every_mount() {
        let origins = ["http://here.example:4747", "https://models.example.org"];
        for url in [
            format!("http://here.example:4747/v1/files/{ID}"),
            format!("http://here.example:4747/files/{ID}"),
            format!("http://here.example:4747/v1/v1/files/{ID}"),
            format!("https://here.example:4747/v1/files/{ID}/"),
            format!("http://MODELS.example.org/v1/files/{ID}?x=1"),
        ] {
            assert_eq!(read(&url, &origins), Some(Own::Metadata(ID.to_owned())), "{url}");
        }
        for url in [
            "http://here.example:4747/v1/models".to_owned(),
            "http://here.example:4747/v1/files/".to_owned(),
            "http://here.example:4747/v1/files/short".to_owned(),
            format!("http://here.example:4747/v1/files/{ID}/download"),
            format!("http://here.example:4747/v1/files/{ID}/download?owner=a&expiry=x&signature=b"),
            format!("http://here.example:4747/v1/files/{ID}/other"),
            format!("http://here.example:4747/x/v1/files/{ID}"),
        ] {
            assert_eq!(read(&url, &origins), Some(Own::Other), "{url}");
        }
        for url in [
            format!("http://here.example/v1/files/{ID}"),
            format!("http://other.example:4747/v1/files/{ID}"),
        ] {
            assert_eq!(read(&url, &origins), None, "{url}");
        }
        assert_eq!(
            read(&format!("http://here.example/v1/files/{ID}"), &["", "nonsense"]),
            None
        );
    }

    #[test]
    fn a_signature_holds_for_one_file_of_one_owner_until_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        let url = download(&secrets, "http://h", "me", ID, 5_000_999);
        let Some(Own::Signed(signed)) = read(&url, &["http://h"]) else {
            panic!("{url}");
        };
        assert!(signed.holds(&secrets, 0) && signed.holds(&secrets, 4_999_999));
        assert!(!signed.holds(&secrets, 5_000_000));
        let others = [
            Signed {
                owner: "you".into(),
                ..signed.clone()
            },
            Signed {
                id: ID.replace('a', "b"),
                ..signed.clone()
            },
            Signed {
                expiry: 6000,
                ..signed.clone()
            },
            Signed {
                signature: String::new(),
                ..signed.clone()
            },
            Signed {
                signature: signed.signature.replace(|c: char| c.is_ascii_lowercase(), "A"),
                ..signed.clone()
            },
        ];
        assert!(others.iter().all(|other| !other.holds(&secrets, 0)));
        let standard = STANDARD.encode(URL_SAFE_NO_PAD.decode(&signed.signature).unwrap());
        assert!(
            Signed {
                signature: standard,
                ..signed
            }
            .holds(&secrets, 0)
        );
    }
}
