//! What happened, as one number: two runs of a seed have the same.

use std::hash::{DefaultHasher, Hasher};

/// See the module.
#[derive(Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    loud: bool,
}

impl Trace {
    /// `loud`: tells each step on standard error, too.
    pub(crate) fn new(loud: bool) -> Self {
        Self { loud, ..Self::default() }
    }

    /// Something happened.
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
    }

    /// A step was taken.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        self.note(line.as_bytes());
        if self.loud {
            eprintln!("{line}");
        }
    }

    /// The number so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
