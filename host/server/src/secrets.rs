//! The server's own key, made at the first start and kept for its user alone: signs URLs that work without a token, and is what
//! other secrets are derived from.

use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::StartError;

/// The key's file name inside the data folder.
const FILE: &str = "secret.key";

/// The server's key.
#[derive(Clone)]
pub(crate) struct Secrets([u8; 32]);

impl Secrets {
    /// Reads the key; the first start makes it.
    pub(crate) fn open(data: &Path) -> Result<Self, StartError> {
        let path = data.join(FILE);
        let text = crate::app::secret_file(
            &path,
            |text| hex::decode(text).is_ok_and(|key| key.len() == 32),
            || {
                let mut key = [0; 32];
                getrandom::fill(&mut key)?;
                Ok(hex::encode(key))
            },
        )?;
        let mut key = [0; 32];
        hex::decode_to_slice(&text, &mut key).map_err(|e| StartError::file(&path, std::io::Error::other(e)))?;
        Ok(Self(key))
    }

    /// HMAC-SHA256 of a message, apart from that of the same message for any other purpose.
    pub(crate) fn sign(&self, purpose: &str, message: &str) -> [u8; 32] {
        self.mac(purpose, message).finalize().into_bytes().into()
    }

    /// Whether a signature is that of the message, in time that does not depend on where it differs.
    pub(crate) fn verify(&self, purpose: &str, message: &str, signature: &[u8]) -> bool {
        self.mac(purpose, message).verify_slice(signature).is_ok()
    }

    fn mac(&self, purpose: &str, message: &str) -> Hmac<Sha256> {
        // HMAC fills a key up to the block of its hash with zeros.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(message.as_bytes());
        mac
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_signature_is_for_one_purpose_and_one_message_and_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        let signature = secrets.sign("file", "a");
        let again = Secrets::open(folder.path()).unwrap();
        assert!(again.verify("file", "a", &signature));
        assert!(!again.verify("stream", "a", &signature));
        assert!(!again.verify("file", "b", &signature));
        assert!(!again.verify("file", "a", &signature[..31]));
        assert_eq!(format!("{secrets:?}"), "Secrets");
    }
}
