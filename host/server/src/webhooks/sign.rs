//! Signatures of webhooks, after Standard Webhooks 1.0: HMAC-SHA256 of `{id}.{timestamp}.{body}`, so that receivers know who sent them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secrets::Secrets;

/// What an owner's webhooks are signed with.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// The secret of an owner; the same for as long as the server keeps its key.
    pub(crate) fn of(secrets: &Secrets, owner: &str) -> Self {
        Self(secrets.sign("webhook-secret", owner))
    }

    /// As receivers configure it. Standard base64: clients of today split the text at `_`.
    pub(crate) fn text(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0))
    }

    /// The header `webhook-signature` of a message. `timestamp` is in Unix seconds.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        signature(&self.0, id, timestamp, body)
    }
}

fn signature(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    // HMAC fills a key up to the block of its hash with zeros; keys here are no longer than the block.
    let mut block = [0; 64];
    block[..key.len().min(64)].copy_from_slice(&key[..key.len().min(64)]);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_todays_clients_expect() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_owner_has_a_secret_of_its_own_that_clients_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        let text = Secret::of(&secrets, "me").text();
        assert_eq!(text, Secret::of(&Secrets::open(folder.path()).unwrap(), "me").text());
        assert_ne!(text, Secret::of(&secrets, "you").text());
        let parts: Vec<_> = text.split('_').collect();
        assert_eq!(
            (parts.len(), parts[0], STANDARD.decode(parts[1]).unwrap().len()),
            (2, "whsec", 32)
        );
    }
}
