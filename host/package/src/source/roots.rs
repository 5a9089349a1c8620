//! Which certificate authorities are trusted: those of this machine, so that a proxy that its owner trusts works here too.

use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// Where systems keep the authorities that they trust, all in one file.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities in the file that `SSL_CERT_FILE` names, else in the system's, else Mozilla's list, which is compiled in.
pub(super) fn certificates() -> RootCerts {
    let set = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let bundles = set.into_iter().chain(BUNDLES.iter().map(PathBuf::from));
    match bundles.map(|path| read(&path)).find(|found| !found.is_empty()) {
        Some(found) => RootCerts::from(found),
        None => RootCerts::WebPki,
    }
}

fn read(bundle: &Path) -> Vec<Certificate<'static>> {
    let Ok(pem) = std::fs::read(bundle) else {
        return Vec::new();
    };
    let items = parse_pem(&pem).filter_map(Result::ok);
    items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_bundle_is_read_and_what_is_none_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        assert!(read(&path).is_empty());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(read(&path).is_empty());
        let one = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, format!("# A comment.\n{one}{one}")).unwrap();
        let found = read(&path);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].der(), [0, 1, 2]);
    }
}
