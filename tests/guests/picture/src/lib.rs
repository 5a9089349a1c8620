//! Turns a file around: a file comes in, and a file of the same media type goes out.

use maquette::prelude::*;

/// What to turn.
#[derive(Input)]
struct Sheet {
    /// A file of any kind.
    image: File,
}

struct Picture;

impl Model for Picture {
    type Input = Sheet;
    type Output = File;

    fn load(_package: &Package) -> Result<Self> {
        Ok(Picture)
    }

    fn predict(&self, sheet: Sheet) -> Result<File> {
        let mut bytes = sheet.image.bytes()?;
        bytes.reverse();
        File::new(&sheet.image.media_type()?, &bytes)
    }
}

maquette::export!(Picture);
