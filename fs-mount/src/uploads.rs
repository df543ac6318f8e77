//! Uploads under way: remembered in the volume's folder, so that what a sudden end leaves of them goes when the volume is opened, or
//! its page served, the next time.
//!
//! Each is an empty file in `uploads`, named `<inode>-<hex>`: the folder's number and what the unfinished file's name ends in. Neither
//! is a name of the volume's; whoever reads the disk learns nothing from them.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use volume::{Error, Volume, node::Ino};

/// Where they are remembered, in the volume's folder.
const FOLDER: &str = "uploads";

/// The name that a file has until all of it is there.
pub(crate) fn unfinished(random: &str) -> String {
    format!(".p2pfs-upload-{random}")
}

/// The folder where they are remembered, of a volume that has this folder.
pub(crate) fn folder(volume: &Path) -> PathBuf {
    volume.join(FOLDER)
}

/// One that is remembered.
#[derive(Debug)]
pub(crate) struct Remembered(PathBuf);

impl Remembered {
    /// Remembers one before it is begun. Not synced: a power loss may leave a file, the death of a process doesn't.
    pub(crate) fn new(uploads: &Path, folder: u64, random: &str) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(uploads) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let path = uploads.join(format!("{folder}-{random}"));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self(path))
    }

    /// Forgets it, now that nothing of it is left.
    pub(crate) fn forget(&self) {
        if fs::remove_file(&self.0).is_err() {
            // It is looked for once more, and not found.
            log::debug!("page: an upload that is over can't be forgotten");
        }
    }
}

/// Which folder a remembered one is in, and what its name ends in; nothing if no upload of ours is called so.
fn parse(name: &str) -> Option<(Ino, &str)> {
    let (ino, random) = name.split_once('-')?;
    let is_hex = !random.is_empty() && random.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then_some((Ino(ino.parse().ok()?), random))
}

/// Removes what an end that came suddenly has left of uploads. Nobody may be uploading.
pub(crate) fn clear(volume: &Volume, dir: &Path) {
    let Ok(entries) = fs::read_dir(folder(dir)) else { return };
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((ino, random)) = name.to_str().and_then(parse) else { continue };
        match volume.unlink_and_tell(ino, unfinished(random).as_bytes()) {
            Ok(()) => removed += 1,
            // It was whole, or had not begun; or the folder went, and it with that.
            Err(Error::NotFound | Error::NotDirectory) => {}
            Err(e) => {
                log::warn!("an unfinished upload can't be removed: {e}");
                continue;
            }
        }
        Remembered(entry.path()).forget();
    }
    if removed > 0 {
        log::info!("{removed} unfinished uploads are removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uploads_are_read() {
        assert_eq!(parse("12-00ff"), Some((Ino(12), "00ff")));
        for other in ["", "12", "12-", "-00ff", "x-00ff", "12-..", "12-00/ff", "12-00ff.new"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn one_is_remembered_until_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let uploads = folder(dir.path());
        let (one, other) = (Remembered::new(&uploads, 1, "00").unwrap(), Remembered::new(&uploads, 1, "01").unwrap());
        assert!(Remembered::new(&uploads, 1, "00").is_err());
        one.forget();
        let left: Vec<_> = fs::read_dir(&uploads).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["1-01"]);
        other.forget();
    }
}
