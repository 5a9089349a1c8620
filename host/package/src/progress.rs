//! How the library tells what it is doing; whoever calls decides what to show.

/// Listens to long work. One task is in progress at a time: `begin`, any number of `advance`, `end`. `say` may come at any
/// time and is one line of text without a line break.
pub trait Progress {
    /// A task starts: what it does, and how many bytes it will take if that is known.
    fn begin(&mut self, what: &str, total: Option<u64>);
    /// So many bytes more of it are done.
    fn advance(&mut self, bytes: u64);
    /// It is over, well or not.
    fn end(&mut self);
    /// Something that a person may want to read.
    fn say(&mut self, line: &str);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _total: Option<u64>) {}
    fn advance(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
    fn say(&mut self, _line: &str) {}
}

/// Remembers what it was told.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) tasks: Vec<(String, Option<u64>)>,
    pub(crate) bytes: u64,
    pub(crate) ended: usize,
    pub(crate) lines: Vec<String>,
}

#[cfg(test)]
impl Progress for Recorder {
    fn begin(&mut self, what: &str, total: Option<u64>) {
        self.tasks.push((what.to_owned(), total));
    }
    fn advance(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
    fn end(&mut self) {
        self.ended += 1;
    }
    fn say(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }
}
