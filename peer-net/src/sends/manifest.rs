//! What a send consists of: files and folders by their paths, parents before what is in them.
//!
//! `ClaimedManifest` collects what a stranger says, part by part and within bounds; [`ClaimedManifest::check`] is the only way
//! from there to a [`Manifest`]. Invariants of one: every path consists of names of [`is_name`], no two are the same, and what
//! a path lies in is a folder of the same manifest. So nothing in it leads anywhere but below where it is put.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{MAX_BYTES, Offer};

/// Files and folders of one send.
pub const MAX_ENTRIES: usize = 100_000;
/// Bytes of its paths together.
pub const MAX_PATHS: usize = 8 << 20;
/// The longest path, and the most names in it.
pub const MAX_PATH: usize = 4096;
const MAX_DEPTH: usize = 100;
const MAX_NAME: usize = 255;

/// Entries of a part, so that its frame has less than may be.
const PART_ENTRIES: usize = 2000;
const PART_BYTES: usize = 64 << 10;

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From the top of what is sent, names with `/` between.
    pub path: ByteBuf,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file of so many bytes, which may be a program.
    File {
        /// Its length.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
}

/// Whether a file may be called that on any disk, and show as one line: no `/`, no control characters, not `.` or `..`.
pub fn is_name(name: &[u8]) -> bool {
    let plain = |byte: &u8| !matches!(byte, 0..=31 | 127 | b'/');
    !name.is_empty() && name.len() <= MAX_NAME && name != b"." && name != b".." && name.iter().all(plain)
}

/// A manifest as it comes from a stranger.
#[derive(Debug, Default)]
pub struct ClaimedManifest {
    entries: Vec<Entry>,
    paths: usize,
}

/// One that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
    files: u64,
    bytes: u64,
}

impl ClaimedManifest {
    /// Takes in a part.
    ///
    /// # Errors
    /// It is more than may be.
    pub fn add(&mut self, part: Vec<Entry>) -> Result<(), String> {
        self.paths += part.iter().map(|entry| entry.path.len()).sum::<usize>();
        if self.entries.len() + part.len() > MAX_ENTRIES || self.paths > MAX_PATHS {
            return Err("a manifest longer than may be".to_owned());
        }
        self.entries.extend(part);
        Ok(())
    }

    /// Checks the whole of it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self) -> Result<Manifest, String> {
        let (mut seen, mut folders) = (HashSet::new(), HashSet::new());
        let (mut files, mut bytes) = (0, 0_u64);
        for entry in &self.entries {
            let path: &[u8] = &entry.path;
            let names = || path.split(|byte| *byte == b'/');
            if path.len() > MAX_PATH || names().count() > MAX_DEPTH || !names().all(is_name) {
                return Err("a path that is none".to_owned());
            }
            if !seen.insert(path) {
                return Err("one path twice".to_owned());
            }
            if let Some(end) = path.iter().rposition(|byte| *byte == b'/')
                && !folders.contains(&path[..end])
            {
                return Err("a path in no folder".to_owned());
            }
            match entry.kind {
                Kind::Folder => {
                    folders.insert(path);
                }
                Kind::File { size, .. } => {
                    files += 1;
                    bytes = bytes.saturating_add(size);
                }
            }
        }
        if self.entries.is_empty() || bytes > MAX_BYTES {
            return Err("a manifest of nothing, or of more than there can be".to_owned());
        }
        Ok(Manifest { entries: self.entries, files, bytes })
    }
}

impl Manifest {
    /// What it consists of.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many files.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// Their length together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The names at the top.
    pub fn tops(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|entry| &entry.path[..]).filter(|path| !path.contains(&b'/'))
    }

    /// Whether it is what was offered.
    pub fn is(&self, offer: &Offer) -> bool {
        (self.files, self.bytes) == (offer.files, offer.bytes)
            && self.tops().take(super::SHOWN_NAMES).eq(offer.names.iter().map(|name| &name[..]))
    }

    /// The parts in which it is sent.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[Entry]> {
        let mut rest = &self.entries[..];
        std::iter::from_fn(move || {
            let mut bytes = 0;
            let fits = |entry: &&Entry| {
                bytes += entry.path.len() + 32;
                bytes <= PART_BYTES
            };
            let count = rest.iter().take(PART_ENTRIES).take_while(fits).count();
            let (part, more) = rest.split_at(count);
            rest = more;
            (!part.is_empty()).then_some(part)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Kind = Kind::File { size: 3, executable: false };

    fn manifest(entries: &[(&[u8], Kind)]) -> Result<Manifest, String> {
        let entries = entries.iter().map(|(path, kind)| Entry { path: ByteBuf::from(path.to_vec()), kind: *kind });
        let mut claimed = ClaimedManifest::default();
        claimed.add(entries.collect())?;
        claimed.check()
    }

    #[test]
    fn a_tree_is_taken_as_it_is() {
        let tree = manifest(&[(b"a", Kind::Folder), (b"a/b", FILE), (b"a/c", Kind::Folder), (b"\xFF", FILE)]).unwrap();
        assert_eq!((tree.files(), tree.bytes(), tree.entries().len()), (2, 6, 4));
        assert_eq!(tree.tops().collect::<Vec<_>>(), [b"a", &b"\xFF"[..]]);
        assert_eq!(tree.parts().flatten().collect::<Vec<_>>(), tree.entries().iter().collect::<Vec<_>>());
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = [b'a'; 256];
        for name in [
            &b""[..],
            b".",
            b"..",
            b"/etc/passwd",
            b"../x",
            b"a/../x",
            b"a//x",
            b"a/",
            b"a/.",
            b"a\0b",
            b"a\nb",
            b"a\x1b[2J",
            b"a\x7f",
            &long,
        ] {
            assert!(manifest(&[(b"a", Kind::Folder), (name, FILE)]).is_err(), "{name:?}");
        }
        for name in [&b"..."[..], b"..a", b" ", b"a\\b", b"\xC3\x28", b"-rf"] {
            assert!(manifest(&[(name, FILE)]).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn what_lies_in_no_folder_and_what_comes_twice_is_refused() {
        assert!(manifest(&[(b"a/b", FILE)]).is_err(), "no parent");
        assert!(manifest(&[(b"a", FILE), (b"a/b", FILE)]).is_err(), "the parent is a file");
        assert!(manifest(&[(b"a/b", FILE), (b"a", Kind::Folder)]).is_err(), "the parent comes later");
        assert!(manifest(&[(b"a", FILE), (b"a", FILE)]).is_err());
        assert!(manifest(&[(b"a", Kind::Folder), (b"a", FILE)]).is_err());
        assert!(manifest(&[]).is_err());
    }

    #[test]
    fn it_is_bounded() {
        let huge = Kind::File { size: u64::MAX, executable: false };
        assert!(manifest(&[(b"a", huge)]).is_err() && manifest(&[(b"a", huge), (b"b", huge)]).is_err());
        let deep = b"a/".repeat(150);
        let folders = (1..=150).map(|depth| Entry { path: ByteBuf::from(&deep[..2 * depth - 1]), kind: Kind::Folder });
        let mut claimed = ClaimedManifest::default();
        claimed.add(folders.collect()).unwrap();
        assert!(claimed.check().is_err());
        let mut many = ClaimedManifest::default();
        let part = || vec![Entry { path: ByteBuf::from(vec![b'a'; 4000]), kind: FILE }; 1000];
        assert!((0..10).any(|_| many.add(part()).is_err()), "paths");
        let mut many = ClaimedManifest::default();
        let part = || vec![Entry { path: ByteBuf::from(b"a"), kind: FILE }; 60_000];
        assert!(many.add(part()).is_ok() && many.add(part()).is_err(), "entries");
    }

    #[test]
    fn parts_are_shorter_than_a_frame() {
        let folder = |n: usize| (format!("{n:0>250}").into_bytes(), Kind::Folder);
        let all: Vec<_> = (0..5000).map(folder).collect();
        let all = manifest(&all.iter().map(|(path, kind)| (&path[..], *kind)).collect::<Vec<_>>()).unwrap();
        let parts: Vec<_> = all.parts().collect();
        assert!(parts.len() > 10);
        assert!(parts.iter().all(|part| crate::frame::encode(part).len() <= super::super::MAX_FRAME));
        assert_eq!(parts.concat(), all.entries());
    }

    #[test]
    fn an_offer_is_held_against_what_comes() {
        let tree = manifest(&[(b"a", Kind::Folder), (b"a/b", FILE)]).unwrap();
        let names = vec![ByteBuf::from(b"a")];
        let offer = Offer { id: super::super::SendId::new([0; 16]), files: 1, bytes: 3, names };
        assert!(tree.is(&offer));
        assert!(!tree.is(&Offer { files: 2, ..offer.clone() }) && !tree.is(&Offer { bytes: 2, ..offer.clone() }));
        assert!(!tree.is(&Offer { names: vec![ByteBuf::from(b"x")], ..offer }));
    }
}
