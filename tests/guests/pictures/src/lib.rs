//! Turns files around: a list of files comes in, and a list of files goes out.

use maquette::prelude::*;

/// What to turn.
#[derive(Input)]
struct Sheets {
    /// Files of any kind.
    #[input(min_items = 1, max_items = 8)]
    images: Vec<File>,
}

struct Pictures;

impl Model for Pictures {
    type Input = Sheets;
    type Output = Vec<File>;

    fn load(_package: &Package) -> Result<Self> {
        Ok(Pictures)
    }

    fn predict(&self, sheets: Sheets) -> Result<Vec<File>> {
        let turned = sheets.images.iter().map(|image| {
            let mut bytes = image.bytes()?;
            bytes.reverse();
            File::new(&image.media_type()?, &bytes)
        });
        turned.collect()
    }
}

maquette::export!(Pictures);
