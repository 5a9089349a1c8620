//! Files against a real store and disk: whose they are, what they cost, what a crash leaves, and inputs and outputs that name them.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};

use maquette_sandbox::OutputFile;
use serde_json::json;

use super::*;
use crate::catalog::Catalog;
use crate::engine::InputFile;

struct Fixture {
    files: Files,
    folder: tempfile::TempDir,
}

fn fixture(change: impl FnOnce(&mut Config)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config {
        data: folder.path().to_owned(),
        ..Config::default()
    };
    change(&mut config);
    Fixture {
        files: open(&config),
        folder,
    }
}

fn open(config: &Config) -> Files {
    let store = Arc::new(Store::open(&config.data, &Arc::new(Catalog::default())).unwrap());
    let secrets = Secrets::open(&config.data).unwrap();
    let outbound = Outbound::new(&config.outbound_allow).unwrap();
    let memory = Memory::new(config.body_memory_bytes);
    Files::open(config, store, secrets, outbound, memory, Arc::new(Metrics::new())).unwrap()
}

impl Fixture {
    async fn upload(&self, owner: &str, bytes: &[u8]) -> Result<File, Problem> {
        let mut incoming = self.files.incoming().unwrap();
        incoming.write(bytes).unwrap();
        let new = New {
            owner: owner.into(),
            kind: Kind::Upload,
            prediction_id: None,
            name: "a.txt".to_owned(),
            content_type: "text/plain".to_owned(),
            metadata: "{}".to_owned(),
        };
        Ok(self.files.keep(vec![(new, incoming)]).await?.remove(0))
    }

    fn on_disk(&self) -> usize {
        self.files.disk.list().unwrap().len()
    }

    async fn resolve(&self, owner: &str, uri: &str) -> Result<InputFile, Problem> {
        self.files.resolve(&owner.into(), ORIGIN, "image", uri).await
    }
}

const ORIGIN: &str = "http://here.example:4747";

fn says(times: usize, text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for _ in 0..times {
            let mut stream = listener.accept().unwrap().0;
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                line.clear();
            }
            let _ = stream.write_all(text.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn a_quota_is_per_owner_and_counts_small_files_too() {
    let fixture = fixture(|c| c.files_per_owner_bytes = 2 * 4096 + 100);
    fixture.upload("me", &[1; 60]).await.unwrap();
    let problem = fixture.upload("me", &[1; 60]).await.unwrap_err();
    assert_eq!((problem.code(), fixture.on_disk()), ("file-quota", 1));
    assert_eq!(problem.body()["status"], 507);
    fixture.upload("you", &[1; 60]).await.unwrap();
    let second = fixture.upload("me", &[1; 40]).await.unwrap();
    assert_eq!(
        fixture.files.check_room(&"me".into(), 0).await.unwrap_err().code(),
        "file-quota"
    );
    fixture.files.delete("me", &second.id).await.unwrap();
    fixture.upload("me", &[1; 40]).await.unwrap();
}

#[tokio::test]
async fn what_has_expired_is_gone_at_once_and_swept_later() {
    let fixture = fixture(|c| c.file_ttl = Duration::from_millis(1));
    let file = fixture.upload("me", b"x").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fixture.files.get("me", &file.id).await.unwrap_err().code(), "not-found");
    assert!(
        fixture
            .files
            .list("me", (i64::MAX, String::new()), 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(fixture.on_disk(), 1);
    assert_eq!((fixture.files.sweep().await.unwrap(), fixture.on_disk()), (1, 0));
    assert_eq!(fixture.files.store.read(|c| records::usage(c, "me")).await.unwrap(), 0);
}

#[tokio::test]
async fn a_start_puts_right_what_a_crash_left() {
    let Fixture { files, folder } = fixture(|_| {});
    let fixture = Fixture { files, folder };
    let whole = fixture.upload("me", b"whole").await.unwrap();
    let lost = fixture.upload("me", b"lost").await.unwrap();
    std::fs::remove_file(fixture.files.disk.path(&lost.id)).unwrap();
    let stray = fixture.files.disk.path("straystraystraystraystrays");
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, "stray").unwrap();
    let Fixture { files, folder } = fixture;
    drop(files);
    let config = Config {
        data: folder.path().to_owned(),
        ..Config::default()
    };
    let files = open(&config);
    files.reconcile().await.unwrap();
    assert_eq!(files.disk.list().unwrap(), std::slice::from_ref(&whole.id));
    files.get("me", &whole.id).await.unwrap();
    assert!(files.get("me", &lost.id).await.is_err() && !stray.exists());
    assert_eq!(files.store.read(|c| records::usage(c, "me")).await.unwrap(), 5 + 4096);
}

#[tokio::test]
async fn an_input_names_files_in_every_way_there_is() {
    let address = says(
        1,
        "HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 3\r\n\r\nweb",
    );
    let fixture = fixture(|c| {
        c.outbound_allow = vec![address.to_string()];
        c.public_url = Some("https://public.example".to_owned());
    });
    let file = fixture.upload("me", b"mine").await.unwrap();
    let theirs = fixture.upload("you", b"theirs").await.unwrap();
    let signed = fixture.files.download_url(ORIGIN, &theirs);
    let schema = json!({"properties": {"list": {"items": {"format": "uri"}}, "one": {"format": "uri"}, "text": {"type": "string"}}});
    let mut input = json!({
        "list": [format!("{ORIGIN}/files/{}", file.id), format!("http://public.example/v1/v1/files/{}", file.id), signed,
                 format!("http://{address}/x?y")],
        "one": "data:text/html;base64,PGI+",
        "text": format!("{ORIGIN}/files/{}", file.id),
    });
    let found = fixture
        .files
        .extract_inputs(&"me".into(), ORIGIN, &schema, &mut input)
        .await
        .unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|f| (f.media_type.as_str(), std::str::from_utf8(&f.bytes).unwrap()))
        .collect();
    let expected = [
        ("text/plain", "mine"),
        ("text/plain", "mine"),
        ("text/plain", "theirs"),
        ("image/png", "web"),
        ("text/html", "<b>"),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        input["list"],
        json!([
            "maquette-file:0",
            "maquette-file:1",
            "maquette-file:2",
            "maquette-file:3"
        ])
    );
    assert_eq!(
        (&input["one"], &input["text"]),
        (&json!("maquette-file:4"), &json!(format!("{ORIGIN}/files/{}", file.id)))
    );
}

#[tokio::test]
async fn every_field_whose_file_cannot_be_had_is_named() {
    let fixture = fixture(|_| {});
    let theirs = fixture.upload("you", b"theirs").await.unwrap();
    let signed = fixture.files.download_url(ORIGIN, &theirs);
    let schema = json!({"properties": {"list": {"items": {"format": "uri"}}}});
    let mut input = json!({"list": [
        "data:,good", "http://127.0.0.1/", format!("{ORIGIN}/v1/files/{}", theirs.id), signed.replace("owner=you", "owner=me"),
        "ftp://x/", "data:nothing", format!("{ORIGIN}/v1/models"), "not a url"
    ]});
    let problem = fixture
        .files
        .extract_inputs(&"me".into(), ORIGIN, &schema, &mut input)
        .await
        .unwrap_err();
    let body = problem.body();
    assert_eq!(body["status"], 422);
    let errors: Vec<_> = body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{} {}", e["field"], e["message"]))
        .collect();
    for (error, expected) in errors.iter().zip([
        ("list[1]", "loopback"),
        ("list[2]", "not found"),
        ("list[3]", "not found"),
        ("list[4]", "scheme `ftp`"),
        ("list[5]", "no comma"),
        ("list[6]", "not that of a file"),
        ("list[7]", "not an absolute URL"),
    ]) {
        assert!(
            error.contains(expected.0) && error.contains(expected.1),
            "{error}: {expected:?}"
        );
    }
    assert_eq!(errors.len(), 7);
}

#[tokio::test]
async fn files_of_one_input_are_bounded_in_number_and_bytes_and_memory() {
    let fixture = fixture(|c| c.input_files_bytes = 10);
    let file = fixture.upload("me", b"sixsix").await.unwrap();
    let url = format!("{ORIGIN}/v1/files/{}", file.id);
    fixture.resolve("me", &url).await.unwrap();
    let schema = json!({"properties": {"list": {"items": {"format": "uri"}}}});
    let refused = async |list: Vec<String>| {
        let problem = fixture
            .files
            .extract_inputs(&"me".into(), ORIGIN, &schema, &mut json!({"list": list}))
            .await;
        problem.unwrap_err().code()
    };
    assert_eq!(refused(vec![url.clone(); 2]).await, "input-files-too-large");
    assert_eq!(
        refused(vec![url.clone(), "data:,12345".to_owned()]).await,
        "input-files-too-large"
    );
    assert_eq!(refused(vec![url.clone(); 65]).await, "too-many-files");
    let short = self::fixture(|c| c.body_memory_bytes = 3);
    assert_eq!(short.resolve("me", "data:,1234").await.unwrap_err().code(), "busy");
    let text = format!("data:,{}", "x".repeat(300 << 10));
    let large = self::fixture(|_| {}).resolve("me", &text).await.unwrap();
    assert_eq!(
        large.bytes.len(),
        300 << 10,
        "large ones are decoded elsewhere, to the same end"
    );
}

#[tokio::test]
async fn outputs_are_kept_and_named_by_links_that_work_without_a_token() {
    let fixture = fixture(|_| {});
    let made = |n: u8, media_type: &str| OutputFile {
        media_type: media_type.to_owned(),
        bytes: vec![n; 3].into(),
    };
    let two = vec![
        ("output-0".to_owned(), made(0, "image/png")),
        ("output-1".to_owned(), made(1, "strange\r\n")),
    ];
    let kept = fixture.files.keep_outputs(&"me".into(), "p1", two, ORIGIN).await;
    let urls = kept.unwrap();
    let link = |url: &str| {
        let url = url::Url::parse(url).unwrap();
        match links::own(&url, &[ORIGIN]) {
            Some(links::Own::Signed(link)) => link,
            other => panic!("{url}: {other:?}"),
        }
    };
    let first = fixture.files.by_link(&link(&urls[0])).await.unwrap();
    assert_eq!(
        (first.name.as_str(), first.content_type.as_str(), first.kind),
        ("output-0.png", "image/png", Kind::Output)
    );
    let second = fixture.files.by_link(&link(&urls[1])).await.unwrap();
    assert_eq!(
        (second.name.as_str(), second.content_type.as_str()),
        ("output-1", "application/octet-stream")
    );
    assert_eq!(std::fs::read(fixture.files.disk.path(&second.id)).unwrap(), [1; 3]);
    assert!(first.expires_at - first.created_at == 3_600_000);
    // The output of one call is the input of the next, whoever's it is.
    let next = fixture.resolve("you", &urls[1]).await.unwrap();
    assert_eq!(&*next.bytes, [1; 3]);

    fixture.files.delete_outputs("you", "p1").await.unwrap();
    assert_eq!(fixture.on_disk(), 2, "only an owner removes what is the owner's");
    fixture.files.delete_outputs("me", "p1").await.unwrap();
    assert_eq!(fixture.on_disk(), 0);
    assert!(fixture.files.by_link(&link(&urls[1])).await.is_err());
}

#[tokio::test]
async fn outputs_that_do_not_fit_leave_nothing() {
    let fixture = fixture(|c| c.files_per_owner_bytes = 5000);
    let file = OutputFile {
        media_type: "a/b".to_owned(),
        bytes: vec![0; 10].into(),
    };
    let two = vec![("output-0".to_owned(), file.clone()), ("output-1".to_owned(), file)];
    let kept = fixture.files.keep_outputs(&"me".into(), "p", two, ORIGIN).await;
    assert_eq!((kept.unwrap_err().code(), fixture.on_disk()), ("file-quota", 0));
}

#[test]
fn a_media_type_that_could_break_a_header_is_that_of_any_bytes() {
    for good in ["image/png", "text/plain; charset=utf-8"] {
        assert_eq!(media_type(good), good);
    }
    for bad in [
        "",
        "png",
        "a/",
        "/b",
        "a/b\r\nx: y",
        "a/\u{fc}",
        &format!("a/{}", "b".repeat(200)),
    ] {
        assert_eq!(media_type(bad), "application/octet-stream", "{bad}");
    }
}
