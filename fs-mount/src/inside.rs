//! Which mounted volume a path lies in that somebody typed, and where in it.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use crate::{
    control::client,
    failure::{Because, Failure, Outcome},
    home::{Home, VolumeDir},
};

/// A place in a mounted volume; nothing need be there.
pub(crate) struct Inside {
    pub(crate) dir: VolumeDir,
    /// Where the volume is mounted.
    pub(crate) mountpoint: PathBuf,
    /// From the top of the volume on; empty for the top itself.
    pub(crate) path: PathBuf,
}

/// At the top of a mount, what no name of the volume's own is.
pub(crate) const NOT_OURS: &str = ".p2pfs";

impl Inside {
    /// Whether something is there now.
    pub(crate) fn is_there(&self) -> bool {
        fs::symlink_metadata(self.mountpoint.join(&self.path)).is_ok()
    }
}

/// What is said of a path that shows the past of another.
pub(crate) fn not_ours() -> Failure {
    Failure::new("what lies below .p2pfs shows what was elsewhere: name the path itself, and a time or version")
}

/// As [`inside`], for what is asked of a path of the volume's own.
pub(crate) fn inside_own(home: &Home, path: &Path) -> Outcome<Inside> {
    let found = inside(home, path)?;
    if found.path.starts_with(NOT_OURS) { Err(not_ours()) } else { Ok(found) }
}

/// Finds the mounted volume of this user that `path` lies in.
///
/// Symlinks are followed but for the last part, and missing folders are no obstacle: what is asked for may be gone.
pub(crate) fn inside(home: &Home, path: &Path) -> Outcome<Inside> {
    let full = without_links(path)?;
    for dir in home.volumes()? {
        let Some(hello) = client::hello(&dir)? else { continue };
        let mountpoint = PathBuf::from(OsString::from_vec(hello.mountpoint));
        if let Ok(path) = full.strip_prefix(&mountpoint) {
            let path = path.to_owned();
            return Ok(Inside { dir, mountpoint, path });
        }
    }
    Err(Failure::new(format!("{} lies in no mounted volume: mount it first, or say where it is", path.display())))
}

/// `path` from the root, without `.` and `..`, and without symlinks above its last part.
fn without_links(path: &Path) -> Outcome<PathBuf> {
    let full = std::path::absolute(path).because(|| path.display().to_string())?;
    let mut found = PathBuf::from("/");
    let mut parts = full.components().peekable();
    while let Some(part) = parts.next() {
        match part {
            Component::Normal(name) => {
                found.push(name);
                if parts.peek().is_some()
                    && fs::symlink_metadata(&found).is_ok_and(|known| known.file_type().is_symlink())
                {
                    found = fs::canonicalize(&found).because(|| found.display().to_string())?;
                }
            }
            Component::ParentDir => {
                found.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if found.as_os_str().as_bytes().contains(&0) {
        return Err(Failure::new("a path has no zero bytes"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_but_for_the_last_part_and_nothing_need_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        symlink("a/b", top.join("link")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        let check = |typed: &str, expected: &str| {
            assert_eq!(without_links(&top.join(typed)).unwrap(), top.join(expected), "{typed}");
        };
        check("a/./b/../c", "a/c");
        check("link", "link");
        check("link/gone/deeper", "a/b/gone/deeper");
        check("link/../x", "a/x");
        check("gone/../a", "a");
        check("dangling", "dangling");
        assert!(without_links(&top.join("dangling/x")).is_err());
    }
}
