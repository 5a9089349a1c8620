//! Reading `cases/*.json` with the files that they name.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::{Case, DEFAULT_TOLERANCE};
use crate::version::{MAX_CASES, MAX_TEXT};
use crate::{Error, Note, Result, folder, names};

/// A case as the contributor writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    description: String,
    input: Value,
    output: Value,
    tolerance: Option<f64>,
}

/// Reads every `*.json` in `dir`, in the order of their names. A folder that is not there holds no cases.
pub fn read_dir(dir: impl AsRef<Path>) -> Result<Vec<Case>> {
    let dir = dir.as_ref();
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let listed = fs::read_dir(dir).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut paths: Vec<PathBuf> = listed
        .map_err(Error::io("list", dir))?
        .into_iter()
        .map(|e| e.path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    if paths.len() > MAX_CASES {
        let what = format!("{} cases, at most {MAX_CASES} are kept with a version", paths.len());
        return Err(Error::Case(Note::new(
            dir.display(),
            what,
            "keep the ones that say most",
        )));
    }
    paths.iter().map(|path| read(dir, path)).collect()
}

fn read(dir: &Path, path: &Path) -> Result<Case> {
    let place = path.display().to_string();
    let refuse = |what: String, help: &str| Error::Case(Note::new(&place, what, help));
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
    if !names::valid(&name) {
        return Err(refuse("the file's name is not a name".into(), names::RULE));
    }
    let text = folder::read_text(path, MAX_TEXT)?;
    let written: Written = serde_json::from_str(&text).map_err(|e| {
        let help = r#"write {"input": {…}, "output": …}, and if you like "tolerance" and "description""#;
        Error::Case(Note::new(
            format!("{place}:{}:{}", e.line(), e.column()),
            reason(&e),
            help,
        ))
    })?;
    let Written {
        description,
        mut input,
        mut output,
        tolerance,
    } = written;
    inline(dir, &place, "input", &mut input)?;
    inline(dir, &place, "output", &mut output)?;
    let case = Case {
        name,
        description,
        input,
        output,
        tolerance: tolerance.unwrap_or(DEFAULT_TOLERANCE),
    };
    check(&case, &place)?;
    let size = case.to_json()?.len() as u64;
    if size > MAX_TEXT {
        return Err(refuse(
            format!("with its files it has {size} bytes, at most {MAX_TEXT} are kept"),
            "use smaller files",
        ));
    }
    Ok(case)
}

/// Checks what the types do not.
pub(super) fn check(case: &Case, place: &str) -> Result<()> {
    let refuse = |what: String, help: &str| Err(Error::Case(Note::new(place, what, help)));
    if !names::valid(&case.name) {
        return refuse(format!("`{}` is not a name", case.name.escape_debug()), names::RULE);
    }
    if !case.input.is_object() {
        return refuse(
            "`input` is not an object".into(),
            r#"write the object that a caller sends, such as {"text": "…"}"#,
        );
    }
    if !case.tolerance.is_finite() || case.tolerance < 0.0 {
        return refuse(
            format!("`tolerance` is {}", case.tolerance),
            "write a number that is 0 or more, such as 1e-4",
        );
    }
    Ok(())
}

/// Replaces every `@file` by a data URI.
fn inline(dir: &Path, place: &str, at: &str, value: &mut Value) -> Result<()> {
    match value {
        Value::String(text) => {
            let Some(name) = text.strip_prefix('@') else {
                return Ok(());
            };
            if name.starts_with('@') {
                *text = name.to_owned();
                return Ok(());
            }
            let path = folder::inside(dir, Path::new(name)).map_err(|error| {
                let why = error.note().map_or_else(|| error.to_string(), |n| n.what.clone());
                let help = "name a file relative to the case; a text that begins with `@` is written with `@@`";
                Error::Case(Note::new(place, format!("`{at}` names the file `{name}`: {why}"), help))
            })?;
            let bytes = folder::read_bytes(&path, MAX_TEXT)?;
            *text = format!("data:{};base64,{}", media_type(&path), STANDARD.encode(bytes));
            Ok(())
        }
        Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| inline(dir, place, &format!("{at}[{i}]"), item)),
        Value::Object(map) => map
            .iter_mut()
            .try_for_each(|(key, item)| inline(dir, place, &format!("{at}.{key}"), item)),
        _ => Ok(()),
    }
}

/// The media type that a file's name promises.
fn media_type(path: &Path) -> &'static str {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "pdf" => "application/pdf",
        "json" => "application/json",
        "txt" => "text/plain",
        "csv" => "text/csv",
        _ => "application/octet-stream",
    }
}

fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde_json::json;

    use super::*;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn message(content: &str) -> String {
        let dir = folder_with(&[("c.json", content)]);
        read_dir(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn cases_are_read_in_the_order_of_their_names() {
        let dir = folder_with(&[
            ("b.json", r#"{"input": {}, "output": 1}"#),
            (
                "a.json",
                r#"{"description": "d", "input": {"x": 1}, "output": [0.5], "tolerance": 0.01}"#,
            ),
            ("notes.txt", "not a case"),
        ]);
        let cases = read_dir(dir.path()).unwrap();
        assert_eq!(cases.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((cases[0].tolerance, cases[0].description.as_str()), (0.01, "d"));
        assert_eq!(cases[1].tolerance, DEFAULT_TOLERANCE);
        cases[0].check(&json!([0.505])).unwrap();
        assert_eq!(cases[0].check(&json!([0.52])).unwrap_err().path, "$[0]");
    }

    #[test]
    fn a_folder_that_is_not_there_holds_no_cases() {
        assert_eq!(read_dir("/nowhere/cases").unwrap(), []);
    }

    #[test]
    fn files_become_data_uris() {
        let dir = folder_with(&[
            (
                "c.json",
                r#"{"input": {"image": "@cat.png", "more": ["@x.bin", "@@handle"]}, "output": "@cat.png"}"#,
            ),
            ("cat.png", "PNG"),
            ("x.bin", ""),
        ]);
        let case = &read_dir(dir.path()).unwrap()[0];
        assert_eq!(
            case.input,
            json!({"image": "data:image/png;base64,UE5H", "more": ["data:application/octet-stream;base64,", "@handle"]})
        );
        assert_eq!(case.output, json!("data:image/png;base64,UE5H"));
    }

    #[test]
    fn mistakes_are_named_with_file_and_place() {
        for (content, expected) in [
            (
                r#"{"input": {}}"#,
                "c.json:1:13: missing field `output`; write {\"input\"",
            ),
            (
                "{\n \"inptu\": {}}",
                "c.json:2:8: unknown field `inptu`, expected one of",
            ),
            (r#"{"input": [], "output": 1}"#, "c.json: `input` is not an object"),
            (
                r#"{"input": {}, "output": 1, "tolerance": -1}"#,
                "c.json: `tolerance` is -1; write a number that is 0 or more",
            ),
            (
                r#"{"input": {"a": ["@no.png"]}, "output": 1}"#,
                "c.json: `input.a[0]` names the file `no.png`: there is no such file",
            ),
            (
                r#"{"input": {"a": "@../x"}, "output": 1}"#,
                "`../x`: the path leads out of the model's folder",
            ),
            ("nonsense", "c.json:1:2: expected ident"),
        ] {
            let error = message(content);
            assert!(error.contains(expected), "{content}: {error}");
        }
    }

    #[test]
    fn a_case_survives_being_stored() {
        let dir = folder_with(&[("c.json", r#"{"input": {"t": "é\u0001"}, "output": [1e-7, 3, null]}"#)]);
        let case = read_dir(dir.path()).unwrap().remove(0);
        let json = case.to_json().unwrap();
        assert_eq!(Case::from_json(json.as_bytes()).unwrap().to_json().unwrap(), json);
        let error = Case::from_json(br#"{"name": "c", "input": 1, "output": 1, "tolerance": 0}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`input` is not an object"), "{error}");
    }
}
