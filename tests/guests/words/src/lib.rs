//! Says a text word by word: what is streamed, polled, waited for, cancelled and what fails halfway.

use std::time::Duration;

use maquette::prelude::*;

/// What to say, and how.
#[derive(Input)]
struct Speech {
    /// Cut behind every space: put together, the pieces are this very text.
    #[input(default = "one two three", max_length = 100000)]
    text: String,
    /// Milliseconds to wait between words: the first comes at once.
    #[input(default = 0, ge = 0, le = 20000)]
    delay_ms: u64,
    /// Fail when so many words are said.
    #[input(ge = 0)]
    fail_after: Option<usize>,
}

struct Words;

impl Model for Words {
    type Input = Speech;
    type Output = StreamedText;

    fn load(_package: &Package) -> Result<Self> {
        Ok(Words)
    }

    fn predict(&self, speech: Speech) -> Result<StreamedText> {
        let words: Vec<&str> = speech.text.split_inclusive(' ').collect();
        let said = StreamedText::new();
        for (i, word) in words.iter().enumerate() {
            if speech.fail_after == Some(i) {
                return Err(Error::internal(format!("the voice failed after {i} words")));
            }
            if i > 0 && speech.delay_ms > 0 {
                std::thread::sleep(Duration::from_millis(speech.delay_ms));
            }
            said.send(word)?;
            // As progress bars write it, which clients read out of the log.
            let done = i + 1;
            info(format!("{:3}%|####| {done}/{}", 100 * done / words.len(), words.len()));
        }
        Ok(said)
    }
}

maquette::export!(Words);
