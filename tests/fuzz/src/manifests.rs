//! What a package says of itself: `maquette.toml`, a version's manifest, a case, a weight's source. Each input is read as all of them.

use maquette_package::cases::Case;
use maquette_package::manifest::Manifest;
use maquette_package::source::Source;
use maquette_package::version::VersionManifest;
use maquette_package::{Digest, shards};

pub(crate) fn run(data: &[u8]) {
    if let Ok(case) = Case::from_json(data) {
        let written = case.to_json().unwrap();
        let again = Case::from_json(written.as_bytes()).unwrap();
        assert_eq!(
            again.to_json().unwrap(),
            written,
            "a case that depends on how it is written"
        );
        assert!(case.check(&case.output).is_ok(), "a case does not fit itself");
        let _ = case.check(&case.input);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Manifest::parse(text, "maquette.toml") {
        Ok(manifest) => drop(serde_json::to_string(&manifest).unwrap()),
        Err(error) => assert!(error.to_string().len() <= 4096 + 4 * text.len()),
    }
    if let Ok(manifest) = VersionManifest::from_json(text) {
        let canonical = manifest.canonical_json();
        let again = VersionManifest::from_json(&canonical).unwrap();
        assert_eq!(again, manifest);
        assert_eq!(
            again.id(),
            Digest::of(canonical.as_bytes()),
            "an id that depends on how it is written"
        );
    }
    if let Ok(source) = text.parse::<Source>() {
        let _ = (source.is_remote(), source.file_name());
    }
    let _ = (text.parse::<Digest>(), shards::split(text));
}
