//! Notices that a device's files were put back from a copy.
//!
//! A store that was copied can't tell from what is in it: all of it is as it was. But a file that is copied is made anew,
//! and when a file was made can't be set by hand. So an empty file beside the store, the *anchor*, is made at each opening
//! and each closing under a name of its own, and the store remembers its name and when it was made. An older copy of the store
//! remembers an anchor that is gone, or that was made when the copy was put back.
//!
//! Not noticed: a whole disk put back, with the filesystem on it (a virtual machine's snapshot). Then peers tell it, by
//! commits of this device's log that it doesn't know ([`crate::Core::leave_log`]).

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use crypto::{Entropy, random_array};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    commit::encode,
    core::decode_row,
    error::Result,
    sealed_store::SealedStore,
    store::{Batch, Space},
};

const ANCHOR: &[u8] = b"anchor";
const PREFIX: &str = "anchor.";

/// What the store remembers of its anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Anchor {
    name: [u8; 8],
    /// When the file was made, by its filesystem.
    made: (i64, u32),
}

impl Anchor {
    fn path(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{PREFIX}{}", HEXLOWER.encode(&self.name)))
    }
}

/// When a file was made; where that isn't kept, when it was last changed, which nobody can set either.
fn made(file: &fs::Metadata) -> (i64, u32) {
    let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born = born.and_then(|born| Some((i64::try_from(born.as_secs()).ok()?, born.subsec_nanos())));
    born.unwrap_or_else(|| (file.ctime(), u32::try_from(file.ctime_nsec()).unwrap_or_default()))
}

/// The anchors beside a store.
fn anchors(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether the store in `directory` isn't the one that was opened or closed there last. One that never had an anchor is
/// taken for that one, unless it is `blank` and another's anchor is there.
pub(crate) fn is_copy(directory: &Path, store: &SealedStore, blank: bool) -> Result<bool> {
    let Some(row) = store.get(Space::Meta, ANCHOR)? else { return Ok(blank && !anchors(directory)?.is_empty()) };
    let anchor: Anchor = decode_row("anchor", &row)?;
    match fs::symlink_metadata(anchor.path(directory)) {
        Ok(file) => Ok(made(&file) != anchor.made),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Makes a new anchor for the store in `directory`, and syncs both.
pub(crate) fn renew(directory: &Path, store: &SealedStore, entropy: &dyn Entropy) -> Result<()> {
    let old = anchors(directory)?;
    let mut anchor = Anchor { name: random_array(entropy), made: (0, 0) };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(anchor.path(directory))?;
    file.sync_all()?;
    anchor.made = made(&file.metadata()?);
    File::open(directory)?.sync_all()?;
    let mut batch = Batch::new();
    store.put(&mut batch, Space::Meta, ANCHOR, &encode(&anchor));
    store.apply(batch)?;
    store.sync()?;
    // Only now: until the store has the new one on the disk, it may come up with the old one.
    for path in old {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use crypto::{SeededEntropy, SymmetricKey};

    use super::*;
    use crate::memory_store::MemoryStore;

    fn store() -> SealedStore {
        let entropy = Arc::new(SeededEntropy::new(1));
        SealedStore::new(Arc::new(MemoryStore::new()), &SymmetricKey::generate(&*entropy), entropy)
    }

    #[test]
    fn a_copy_is_noticed_and_the_same_store_is_not() {
        let (dir, store, entropy) = (tempfile::tempdir().unwrap(), store(), SeededEntropy::new(2));
        let directory = dir.path();
        assert!(!is_copy(directory, &store, true).unwrap(), "a new one");
        renew(directory, &store, &entropy).unwrap();
        renew(directory, &store, &entropy).unwrap();
        assert!(!is_copy(directory, &store, false).unwrap());
        let [anchor] = &anchors(directory).unwrap()[..] else { panic!("one anchor") };
        // The clock of a filesystem has steps.
        thread::sleep(Duration::from_millis(20));
        let kept = directory.join("kept");
        fs::copy(anchor, &kept).unwrap();
        assert!(!is_copy(directory, &store, false).unwrap(), "a backup was made, and not put back");
        fs::rename(&kept, anchor).unwrap();
        assert!(is_copy(directory, &store, false).unwrap(), "the backup was put back");
        renew(directory, &store, &entropy).unwrap();
        assert!(!is_copy(directory, &store, false).unwrap(), "noticed once");
    }

    #[test]
    fn an_emptied_store_beside_its_anchor_is_noticed() {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(2));
        renew(dir.path(), &store(), &entropy).unwrap();
        assert!(is_copy(dir.path(), &store(), true).unwrap());
        assert!(!is_copy(dir.path(), &store(), false).unwrap(), "one that was built anew has a log of its own");
    }
}
