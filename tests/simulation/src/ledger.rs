//! What the users know they wrote: which of it must still be there, and which version of a file came before which.
//!
//! Files consist of slots of [`SLOT`] bytes. Each holds zeros or a *token*, eight bytes that were written once.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
};

/// Bytes of a slot.
pub(crate) const SLOT: usize = 8;

/// What one write put into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(pub u32);

impl Token {
    /// Its bytes in a file.
    pub(crate) fn bytes(self) -> [u8; SLOT] {
        let mut bytes = *b"t000000.";
        for (i, byte) in bytes[1..7].iter_mut().rev().enumerate() {
            *byte = b'0' + (self.0 / 10u32.pow(i as u32) % 10) as u8;
        }
        bytes
    }
}

/// Which version a content is.
pub(crate) type Print = u64;

/// The print of a content.
pub(crate) fn print(bytes: &[u8]) -> Print {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The tokens in a content.
///
/// # Errors
/// Bytes that nobody wrote there.
pub(crate) fn tokens(bytes: &[u8]) -> Result<BTreeSet<Token>, String> {
    let mut found = BTreeSet::new();
    for slot in bytes.chunks(SLOT).filter(|slot| slot.iter().any(|b| *b != 0)) {
        let digits = slot.get(1..7).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
        match digits.map(Token) {
            Some(token) if token.bytes() == slot => found.insert(token),
            _ => return Err(format!("a file shows bytes that nobody wrote: {slot:?}")),
        };
    }
    Ok(found)
}

/// An acknowledgement.
#[derive(Clone, Copy)]
struct Acknowledged {
    /// Survives power loss.
    durable: bool,
    /// At which step.
    step: usize,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    next: u32,
    acknowledged: BTreeMap<Token, BTreeMap<usize, Acknowledged>>,
    discarded: BTreeSet<Token>,
    /// What only commits without effect hold.
    forbidden: BTreeSet<Token>,
    /// What each version was made from; `None` when it can't be told, since the same bytes came about twice.
    parents: BTreeMap<Print, Option<Print>>,
    /// Every version that ever was.
    versions: BTreeSet<Print>,
}

impl Ledger {
    /// A token that was never written.
    pub(crate) fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }

    /// How many were ever made.
    pub(crate) fn count(&self) -> u32 {
        self.next
    }

    /// A user who saw these overwrites or removes them.
    pub(crate) fn discard(&mut self, tokens: impl IntoIterator<Item = Token>) {
        self.discarded.extend(tokens);
    }

    /// No user may ever see these.
    pub(crate) fn forbid(&mut self, tokens: impl IntoIterator<Item = Token>) {
        self.forbidden.extend(tokens);
    }

    /// One of these that no user may see.
    pub(crate) fn forbidden(&self, tokens: &BTreeSet<Token>) -> Option<Token> {
        tokens.intersection(&self.forbidden).next().copied()
    }

    /// Device `by` said that these are stored.
    pub(crate) fn acknowledge(&mut self, by: usize, step: usize, tokens: impl IntoIterator<Item = Token>) {
        for token in tokens {
            let new = Acknowledged { durable: false, step };
            self.acknowledged.entry(token).or_default().entry(by).or_insert(new);
        }
    }

    /// What `by` acknowledged is on its disk.
    pub(crate) fn synced(&mut self, by: usize) {
        for said in self.acknowledged.values_mut().filter_map(|said| said.get_mut(&by)) {
            said.durable = true;
        }
    }

    /// Power loss may have taken what `by` had not synced.
    pub(crate) fn lost_power(&mut self, by: usize) {
        for said in self.acknowledged.values_mut() {
            if said.get(&by).is_some_and(|said| !said.durable) {
                said.remove(&by);
            }
        }
    }

    /// A backup of step `step` was restored at `by`: what it acknowledged since is gone, unless it is `elsewhere`.
    pub(crate) fn rolled_back(&mut self, by: usize, step: usize, elsewhere: &BTreeSet<Token>) {
        for (token, said) in &mut self.acknowledged {
            if !elsewhere.contains(token) && said.get(&by).is_some_and(|said| said.step >= step) {
                said.remove(&by);
            }
        }
        self.went_back();
    }

    /// A device went back to an older copy of its store: what it had in hand then it publishes a second time, beside what
    /// came of it the first time.
    pub(crate) fn went_back(&mut self) {
        self.parents.values_mut().for_each(|parent| *parent = None);
    }

    /// What must be somewhere and isn't in `found`.
    pub(crate) fn lost(&self, found: &BTreeSet<Token>) -> Vec<Token> {
        let promised = self.acknowledged.iter().filter(|(_, said)| !said.is_empty()).map(|(token, _)| *token);
        promised.filter(|token| !self.discarded.contains(token) && !found.contains(token)).collect()
    }

    /// A content was made from another.
    pub(crate) fn derived(&mut self, before: &[u8], after: &[u8]) {
        let (before, after) = (print(before), print(after));
        self.versions.insert(before);
        let new = self.versions.insert(after);
        self.parents.insert(after, new.then_some(before));
    }

    /// Whether the content `old` surely came before `new`, and nothing else is like it.
    pub(crate) fn is_ancestor(&self, old: Print, new: Print) -> bool {
        if old == new || !matches!(self.parents.get(&old), Some(Some(_))) {
            return false;
        }
        let mut at = new;
        // A version has fewer ancestors than there are versions.
        for _ in 0..self.parents.len() {
            match self.parents.get(&at) {
                Some(Some(parent)) if *parent == old => return true,
                Some(Some(parent)) => at = *parent,
                _ => return false,
            }
        }
        false
    }
}
