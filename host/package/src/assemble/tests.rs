//! A folder becomes one id, and every byte of it a blob.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use super::*;
use crate::{Silent, check};

const MANIFEST: &str = "[model]\nname = \"probe\"\nversion = \"1.0.0\"\ndescription = \"A probe.\"\nlicense = \"MIT\"\n\
                        [component]\npath = \"probe.wasm\"\n\
                        [weights.model]\nsource = \"w.bin\"\n[assets.\"vocab.txt\"]\nsource = \"vocab.txt\"\n\
                        [limits]\nmemory_mb = 8\n";

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(folder.path("cases")).unwrap();
        fs::write(folder.path("probe.wasm"), check::tests::component(|text| text)).unwrap();
        folder.write("maquette.toml", MANIFEST);
        folder.write("w.bin", "weights");
        folder.write("vocab.txt", "a b c");
        folder.write(
            "cases/one.json",
            r#"{"input": {"text": "a"}, "output": 1, "tolerance": 0}"#,
        );
        folder.write("README.md", "# Probe\n");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn assemble_into(&self, store: &BlobStore) -> Result<Package> {
        assemble(self.dir.path(), store, None, &mut Silent)
    }

    fn assemble(&self) -> Result<Package> {
        let store = tempfile::tempdir().unwrap();
        self.assemble_into(&BlobStore::open(store.path()).unwrap())
    }
}

#[test]
fn every_shard_is_in_the_store() {
    let (folder, dir) = (Folder::new(), tempfile::tempdir().unwrap());
    let store = BlobStore::open(dir.path()).unwrap();
    let whole = folder.assemble_into(&store).unwrap().id;
    folder.write("x.bin", "more weights");
    let shards = "shards = [{ source = \"w.bin\" }, { source = \"x.bin\" }]";
    folder.write("maquette.toml", &MANIFEST.replace("source = \"w.bin\"", shards));
    let package = folder.assemble_into(&store).unwrap();
    assert_ne!(package.id, whole);
    for (name, bytes) in [("model", &b"weights"[..]), ("model#00002", b"more weights")] {
        assert_eq!(store.read(&package.manifest.weights[name].sha256).unwrap(), bytes);
    }
    folder.write("x.bin", "");
    let error = folder.assemble_into(&store).unwrap_err().to_string();
    assert!(error.contains("shard 2 of [weights.model] is empty"), "{error}");
}

#[test]
fn every_byte_of_a_version_is_in_the_store() {
    let (folder, dir) = (Folder::new(), tempfile::tempdir().unwrap());
    let store = BlobStore::open(dir.path()).unwrap();
    let package = folder.assemble_into(&store).unwrap();
    let m = &package.manifest;
    assert_eq!(
        (m.name.as_str(), m.version.as_str(), m.license.as_deref()),
        ("probe", "1.0.0", Some("MIT"))
    );
    assert_eq!(m.limits.memory_bytes, Some(8 << 20));
    assert_eq!(store.read(&m.weights["model"].sha256).unwrap(), b"weights");
    assert_eq!(store.read(&m.assets["vocab.txt"].sha256).unwrap(), b"a b c");
    assert_eq!(store.read(&m.readme.unwrap().sha256).unwrap(), b"# Probe\n");
    assert_eq!(
        Case::from_json(&store.read(&m.cases[0].sha256).unwrap()).unwrap(),
        package.cases[0]
    );
    assert_eq!(
        store.read(&m.component.sha256).unwrap(),
        fs::read(folder.path("probe.wasm")).unwrap()
    );
    for blob in m.blobs() {
        store.verify(&blob.sha256).unwrap();
        assert_eq!(store.size(&blob.sha256).unwrap(), blob.size);
    }
    assert_eq!(store.list().unwrap().len(), m.digests().count());
    assert_eq!(VersionManifest::from_json(&m.canonical_json()).unwrap(), *m);
    assert_eq!(package.id, m.id());
    assert_eq!(package.total_bytes(), m.blobs().map(|b| b.size).sum::<u64>());
}

#[test]
fn the_same_folder_has_the_same_id_anywhere_and_any_change_gives_another() {
    let folder = Folder::new();
    let id = folder.assemble().unwrap().id;
    assert_eq!(folder.assemble().unwrap().id, id);
    assert_eq!(Folder::new().assemble().unwrap().id, id);
    // Spacing and order of what people write do not count.
    folder.write(
        "cases/one.json",
        "{\"tolerance\": 0,\n\"output\": 1, \"input\": {\"text\": \"a\"}}\n",
    );
    folder.write("maquette.toml", &format!("# A comment.\n{MANIFEST}"));
    assert_eq!(folder.assemble().unwrap().id, id);

    let mut ids = std::collections::HashSet::from([id]);
    for (file, text) in [
        ("w.bin", "Weights"),
        ("vocab.txt", "a b d"),
        ("README.md", "# Another probe\n"),
        ("cases/one.json", r#"{"input": {"text": "a"}, "output": 2}"#),
        ("cases/two.json", r#"{"input": {"text": "b"}, "output": 2}"#),
        ("maquette.toml", &MANIFEST.replace("1.0.0", "1.0.1")),
    ] {
        folder.write(file, text);
        assert!(ids.insert(folder.assemble().unwrap().id), "{file}");
    }
}

#[test]
fn a_folder_needs_neither_cases_nor_model_card_nor_weights() {
    let folder = Folder::new();
    fs::remove_dir_all(folder.path("cases")).unwrap();
    fs::remove_file(folder.path("README.md")).unwrap();
    folder.write(
        "maquette.toml",
        "[model]\nname = \"probe\"\nversion = \"1.0.0\"\n[component]\npath = \"probe.wasm\"\n",
    );
    let package = folder.assemble().unwrap();
    assert_eq!(package.manifest.digests().count(), 1);
}

#[test]
fn a_component_that_does_not_fit_the_world_is_refused_with_its_report() {
    let folder = Folder::new();
    fs::write(folder.path("probe.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let error = folder.assemble().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("probe.wasm: this is a core WebAssembly module, not a component"),
        "{error}"
    );
    let Error::Component { report, .. } = error else {
        panic!("another error")
    };
    assert_eq!(report.errors().count(), 1);
}

#[test]
fn what_is_wrong_in_the_folder_is_named() {
    let change = |file: &str, text: &str| {
        let folder = Folder::new();
        folder.write(file, text);
        folder.assemble().unwrap_err().to_string()
    };
    for (file, text, expected) in [
        ("w.bin", "", "w.bin: [weights.model] is empty"),
        ("maquette.toml", "[modle]\n", "did you mean `model`?"),
        ("cases/two.json", "{}", "two.json:1:2: missing field `input`"),
        (
            "maquette.toml",
            &MANIFEST.replace("w.bin", "gone.bin"),
            "gone.bin: there is no such file in",
        ),
        (
            "maquette.toml",
            &MANIFEST.replace("\"w.bin\"", "\"https://example.com/w\""),
            "[weights.model] has no `sha256`, and `https://example.com/w` may change",
        ),
        (
            "maquette.toml",
            &MANIFEST.replace("probe.wasm", "none.wasm"),
            "none.wasm ([component] path): there is no such file",
        ),
    ] {
        let error = change(file, text);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
