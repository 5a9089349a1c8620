//! What the blob store promises, whoever crashes and whoever writes at the same time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

fn files_in(path: PathBuf) -> usize {
    fs::read_dir(path).unwrap().count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_put_is_what_is_read(blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 1..6)) {
        let (_dir, store) = store();
        let mut expected = Vec::new();
        for bytes in &blobs {
            let digest = store.put_bytes(bytes).unwrap();
            prop_assert_eq!(digest, Digest::of(bytes));
            prop_assert_eq!(&store.read(&digest).unwrap(), bytes);
            prop_assert_eq!(store.size(&digest).unwrap(), bytes.len() as u64);
            store.verify(&digest).unwrap();
            expected.push(digest);
        }
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(store.list().unwrap(), expected);
        prop_assert_eq!(files_in(store.temporary()), 0);
    }

    #[test]
    fn any_split_into_writes_gives_the_same_blob(bytes in prop::collection::vec(any::<u8>(), 1..4000), cut in 0usize..4000) {
        let (_dir, store) = store();
        let cut = cut % bytes.len();
        let mut writer = store.writer(&Digest::of(&bytes)).unwrap();
        writer.write_all(&bytes[..cut]).unwrap();
        writer.write_all(&bytes[cut..]).unwrap();
        let digest = writer.commit().unwrap();
        prop_assert_eq!(store.read(&digest).unwrap(), bytes);
    }
}

#[test]
fn bytes_with_another_digest_are_refused_and_leave_nothing() {
    let (_dir, store) = store();
    let promised = Digest::of(b"marble");
    let mut writer = store.writer(&promised).unwrap();
    writer.write_all(b"plaster").unwrap();
    let error = writer.commit().unwrap_err().to_string();
    let found = Digest::of(b"plaster");
    assert_eq!(
        error,
        format!(
            "what was received (7 bytes) has the sha256 {found}, expected {promised}; send the bytes that the digest was computed from"
        )
    );
    assert!(store.list().unwrap().is_empty() && !store.has(&promised) && !store.has(&Digest::of(b"plaster")));
    assert_eq!(files_in(store.temporary()), 0);
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let (_dir, store) = store();
    let mut writer = store.writer_of_unknown().unwrap();
    writer.write_all(b"half").unwrap();
    assert_eq!(files_in(store.temporary()), 1);
    drop(writer);
    assert_eq!(files_in(store.temporary()), 0);
}

#[test]
fn opening_the_store_again_spares_a_living_writer() {
    let (dir, store) = store();
    let mut writer = store.writer_of_unknown().unwrap();
    writer.write_all(b"still here").unwrap();
    let again = BlobStore::open(dir.path()).unwrap();
    let digest = writer.commit().unwrap();
    assert_eq!(again.read(&digest).unwrap(), b"still here");
}

/// Not a test of its own: the process that the next test kills in the middle of a write.
#[test]
#[ignore = "runs as a child process of another test"]
fn child_that_writes_until_it_is_killed() {
    let store = BlobStore::open(std::env::var_os("BLOB_STORE").unwrap()).unwrap();
    let mut writer = store.writer(&Digest::of(b"never complete")).unwrap();
    writer.write_all(b"never").unwrap();
    store.put_bytes(b"complete").unwrap();
    println!("\nwritten");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_writer_killed_in_the_middle_leaves_whole_blobs_and_no_other() {
    let (dir, store) = store();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "blobs::tests::child_that_writes_until_it_is_killed",
        ])
        .env("BLOB_STORE", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(|l| l.ok()).any(|l| l == "written"));
    assert_eq!(files_in(store.temporary()), 1);
    child.kill().unwrap();
    child.wait().unwrap();

    let again = BlobStore::open(dir.path()).unwrap();
    assert_eq!(files_in(again.temporary()), 0);
    assert_eq!(again.list().unwrap(), [Digest::of(b"complete")]);
    again.verify(&Digest::of(b"complete")).unwrap();
}

#[test]
fn many_writers_of_the_same_blobs_agree() {
    let (dir, _) = store();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = BlobStore::open(dir.path()).unwrap();
                for i in 0..20u32 {
                    store.put_bytes(&i.to_le_bytes().repeat(100)).unwrap();
                }
            });
        }
    });
    let store = BlobStore::open(dir.path()).unwrap();
    let blobs = store.list().unwrap();
    assert_eq!(blobs.len(), 20);
    blobs.iter().for_each(|d| store.verify(d).unwrap());
    assert_eq!(files_in(store.temporary()), 0);
}

#[test]
fn a_damaged_blob_is_named_and_heals_when_it_comes_again() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"original").unwrap();
    let path = store.path(&digest).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"tampered!").unwrap();
    let error = store.verify(&digest).unwrap_err().to_string();
    assert!(
        error.contains("damaged") && error.contains(&digest.to_string()),
        "{error}"
    );
    store.put_bytes(b"original").unwrap();
    store.verify(&digest).unwrap();
}

#[test]
fn a_missing_blob_is_an_error_that_names_it() {
    let (_dir, store) = store();
    let digest = Digest::of(b"nowhere");
    for error in [
        store.read(&digest).unwrap_err(),
        store.verify(&digest).unwrap_err(),
        store.size(&digest).unwrap_err(),
    ] {
        assert!(error.to_string().contains(&format!("no blob {digest}")), "{error}");
    }
    assert!(!store.remove(&digest).unwrap());
}

#[test]
fn stray_files_are_not_blobs() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"real").unwrap();
    fs::write(store.blobs().join("README"), "x").unwrap();
    fs::create_dir(store.blobs().join("zz")).unwrap();
    fs::write(store.blobs().join("zz").join("not-a-digest"), "x").unwrap();
    fs::write(
        store.blobs().join("zz").join(Digest::of(b"misplaced").to_string()),
        "misplaced",
    )
    .unwrap();
    assert_eq!(store.list().unwrap(), [digest]);
    assert!(store.remove(&digest).unwrap());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn blobs_cannot_be_written_to() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"fixed").unwrap();
    assert!(
        store
            .path(&digest)
            .unwrap()
            .metadata()
            .unwrap()
            .permissions()
            .readonly()
    );
}

#[test]
fn a_part_continues_where_the_last_process_stopped() {
    let (dir, store) = store();
    let whole = b"the first half and the second".to_vec();
    let key = Digest::of(&whole);
    let mut part = store.partial(&key, || ()).unwrap();
    part.append(&whole[..14]).unwrap();
    drop(part);
    let store = BlobStore::open(dir.path()).unwrap();
    let mut part = store.partial(&key, || ()).unwrap();
    assert_eq!(part.size(), 14);
    part.append(&whole[14..]).unwrap();
    assert_eq!(part.adopt().unwrap(), key);
    assert_eq!(store.read(&key).unwrap(), whole);
    assert_eq!(files_in(store.parts()), 0);
}

#[test]
fn a_part_restarts_from_nothing() {
    let (_dir, store) = store();
    let key = Digest::of(b"right");
    let mut part = store.partial(&key, || ()).unwrap();
    part.append(b"wrong beginning").unwrap();
    part.restart().unwrap();
    part.append(b"right").unwrap();
    assert_eq!(part.digest(), key);
    part.adopt().unwrap();
    assert_eq!(store.read(&key).unwrap(), b"right");
}
