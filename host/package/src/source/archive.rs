//! Taking one file out of a wheel (zip) or a source archive (tar.gz), without unpacking anything else to disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Note, Result, names};

/// The most bytes that a tar archive may unpack to before the file is found: 64 GiB.
const MAX_UNPACKED: u64 = 64 << 30;
/// The most entries that are looked at.
const MAX_ENTRIES: usize = 200_000;

/// Finds `file` in the archive and passes its content to `take`.
pub(super) fn extract(
    archive: &Path,
    file: &str,
    shown: &str,
    take: impl FnOnce(&mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut content = File::open(archive).map_err(Error::io("open", archive))?;
    let mut magic = [0; 4];
    let begins = content.read_exact(&mut magic).map(|()| magic);
    let content = File::open(archive).map_err(Error::io("open", archive))?;
    match begins {
        Ok([b'P', b'K', ..]) => from_zip(content, file, shown, take),
        Ok([0x1f, 0x8b, ..]) => from_tar_gz(content, file, shown, take),
        _ => {
            let what = format!(
                "the client brought `{}`, which is neither a zip nor a tar.gz",
                file_name(archive)
            );
            Err(Error::Source(Note::new(
                shown,
                what,
                "name a package whose archive is a wheel or a tar.gz",
            )))
        }
    }
}

/// Whether every byte of the archive can be read and has its checksum.
pub(super) fn intact(archive: &Path) -> bool {
    let Ok(content) = File::open(archive).map(std::io::BufReader::new) else {
        return false;
    };
    let sink = &mut std::io::sink();
    match zip::ZipArchive::new(content) {
        Ok(mut zip) => (0..zip.len()).all(|i| zip.by_index(i).is_ok_and(|mut e| std::io::copy(&mut e, sink).is_ok())),
        Err(_) => File::open(archive).is_ok_and(|content| {
            let unpacked = flate2::read::MultiGzDecoder::new(std::io::BufReader::new(content));
            std::io::copy(&mut unpacked.take(MAX_UNPACKED), sink).is_ok()
        }),
    }
}

fn from_zip(archive: File, file: &str, shown: &str, take: impl FnOnce(&mut dyn Read) -> Result<()>) -> Result<()> {
    let broken = |e: zip::result::ZipError| damaged(shown, &e);
    let mut zip = zip::ZipArchive::new(std::io::BufReader::new(archive)).map_err(broken)?;
    if zip.index_for_name(file).is_none() {
        let names: Vec<String> = zip
            .file_names()
            .filter_map(|n| n.ok().map(|n| n.into_owned()))
            .collect();
        return Err(absent(file, shown, &names));
    }
    let mut entry = zip.by_name(file).map_err(broken)?;
    if !entry.is_file() {
        return Err(not_a_file(file, shown));
    }
    take(&mut entry)
}

fn from_tar_gz(archive: File, file: &str, shown: &str, take: impl FnOnce(&mut dyn Read) -> Result<()>) -> Result<()> {
    let broken = |e: std::io::Error| damaged(shown, &e);
    let unpacked = flate2::read::MultiGzDecoder::new(std::io::BufReader::new(archive)).take(MAX_UNPACKED);
    let mut tar = tar::Archive::new(unpacked);
    let mut names = Vec::new();
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Everything in such an archive stands in one top folder: `package/`, `six-1.16.0/`.
        let inner = name.split_once('/').map_or(name.as_str(), |(_, rest)| rest).to_owned();
        if inner == file || name == file {
            if !entry.header().entry_type().is_file() {
                return Err(not_a_file(file, shown));
            }
            return take(&mut entry);
        }
        if names.len() >= MAX_ENTRIES {
            break;
        }
        names.push(inner);
    }
    Err(absent(file, shown, &names))
}

fn absent(file: &str, shown: &str, names: &[String]) -> Error {
    let wanted = file.rsplit('/').next().unwrap_or(file);
    let same_name = names
        .iter()
        .map(String::as_str)
        .filter(|n| n.rsplit('/').next() == Some(wanted))
        .take(3);
    let same_name: Vec<&str> = same_name.collect();
    let help = if !same_name.is_empty() {
        format!("did you mean `{}`?", same_name.join("` or `"))
    } else if let Some(near) = names::nearest(file, names.iter().take(2000).map(String::as_str)) {
        format!("did you mean `{near}`?")
    } else {
        let files: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|n| !n.ends_with('/') && !n.is_empty())
            .collect();
        let shown = files.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let more = if files.len() > 8 {
            format!(" and {} more", files.len() - 8)
        } else {
            String::new()
        };
        format!("the files there are: {shown}{more}")
    };
    Error::Source(Note::new(shown, format!("the package has no file `{file}`"), help))
}

fn not_a_file(file: &str, shown: &str) -> Error {
    Error::Source(Note::new(
        shown,
        format!("`{file}` is not a plain file in the package"),
        "name a file",
    ))
}

fn damaged(shown: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Source(Note::new(
        shown,
        format!("the package cannot be read: {why}"),
        "its archive is damaged: try again",
    ))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Write;

    use super::*;

    fn read(archive: &Path, file: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        extract(archive, file, "pip:x==1/y", |content| {
            content.read_to_end(&mut bytes).map_err(|e| damaged("pip:x==1/y", &e))?;
            Ok(())
        })?;
        Ok(bytes)
    }

    fn wheel(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("x.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        zip.add_directory("x/", options).unwrap();
        zip.start_file("x/data/model.bin", options).unwrap();
        zip.write_all(&[7; 10_000]).unwrap();
        zip.finish().unwrap();
        path
    }

    fn sdist(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("x.tar.gz");
        let gz = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        tar.append_data(&mut header, "x-1/data/model.bin", &b"hello"[..])
            .unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "x-1/link", "/etc/passwd").unwrap();
        tar.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn a_file_is_found_in_a_wheel_and_in_a_source_archive() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&wheel(dir.path()), "x/data/model.bin").unwrap(), [7; 10_000]);
        let sdist = sdist(dir.path());
        assert_eq!(read(&sdist, "data/model.bin").unwrap(), b"hello");
        assert_eq!(read(&sdist, "x-1/data/model.bin").unwrap(), b"hello");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_with_the_likely_one() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = wheel(dir.path());
        let message = |file: &str| read(&wheel, file).unwrap_err().to_string();
        assert_eq!(
            message("model.bin"),
            "pip:x==1/y: the package has no file `model.bin`; did you mean `x/data/model.bin`?"
        );
        assert!(message("x/data/modle.bin").contains("did you mean `x/data/model.bin`?"));
        assert!(message("README").contains("the files there are: x/data/model.bin"));
        assert!(message("x/").contains("not a plain file"));
    }

    #[test]
    fn a_damaged_archive_is_told_from_an_intact_one() {
        let dir = tempfile::tempdir().unwrap();
        for archive in [wheel(dir.path()), sdist(dir.path())] {
            assert!(intact(&archive));
            let mut bytes = std::fs::read(&archive).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 0x55;
            std::fs::write(&archive, bytes).unwrap();
            assert!(!intact(&archive), "{}", archive.display());
        }
    }

    #[test]
    fn a_link_in_an_archive_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(&sdist(dir.path()), "link").unwrap_err().to_string();
        assert!(error.contains("not a plain file"), "{error}");
    }

    #[test]
    fn what_is_no_archive_or_a_damaged_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for content in [
            &b""[..],
            b"PK",
            b"plain text",
            b"PK\x03\x04 but no more",
            b"\x1f\x8b\x08\x00 but no more",
        ] {
            let path = dir.path().join("x");
            std::fs::write(&path, content).unwrap();
            let error = read(&path, "x").unwrap_err().to_string();
            assert!(
                error.contains("neither a zip nor a tar.gz") || error.contains("cannot be read"),
                "{error}"
            );
        }
    }
}
