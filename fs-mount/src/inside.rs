//! Which mounted volume a path lies in that somebody typed, and where in it.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use crate::{
    control::{client, protocol::Hello},
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
    match mounted(home.volumes()?, client::hello, |mountpoint| full.starts_with(mountpoint))? {
        Some((dir, mountpoint)) => {
            let path = full.strip_prefix(&mountpoint).expect("it lies in there").to_owned();
            Ok(Inside { dir, mountpoint, path })
        }
        None => Err(Failure::new(format!(
            "{} lies in no mounted volume: mount it first, or say where it is",
            path.display()
        ))),
    }
}

/// The volume that is mounted where `fits` says, and where that is. A daemon that doesn't answer hides no other volume:
/// why it doesn't is told when none of the others fits.
pub(crate) fn mounted(
    volumes: Vec<VolumeDir>,
    hello: impl Fn(&VolumeDir) -> Outcome<Option<Hello>>,
    fits: impl Fn(&Path) -> bool,
) -> Outcome<Option<(VolumeDir, PathBuf)>> {
    let mut silent = None;
    for dir in volumes {
        match hello(&dir) {
            Ok(Some(hello)) => {
                let mountpoint = PathBuf::from(OsString::from_vec(hello.mountpoint));
                // A keeper has none, and every path would lie in an empty one.
                if !mountpoint.as_os_str().is_empty() && fits(&mountpoint) {
                    return Ok(Some((dir, mountpoint)));
                }
            }
            Ok(None) => {}
            Err(why) => silent = silent.or(Some(why)),
        }
    }
    silent.map_or(Ok(None), Err)
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

    fn hello(mountpoint: &str) -> Hello {
        Hello {
            volume: "docs".to_owned(),
            id: "4f2a91c0".to_owned(),
            user: "alice".to_owned(),
            mountpoint: mountpoint.as_bytes().to_vec(),
            pid: 1,
            ending: false,
        }
    }

    #[test]
    fn neither_a_keeper_nor_a_silent_daemon_hides_a_mount() {
        let dir = |short: &str| VolumeDir::from_parts(PathBuf::from(short), short);
        let answers = |dir: &VolumeDir| match dir.short_id() {
            "1" => Ok(Some(hello(""))),
            "2" => Err(Failure::new("silent")),
            "3" => Ok(None),
            _ => Ok(Some(hello("/mnt/docs"))),
        };
        let found = |ids: &[&'static str], path: &str| {
            let volumes = ids.iter().map(|short| dir(short)).collect();
            mounted(volumes, answers, |at| Path::new(path).starts_with(at)).map(|found| found.map(|(dir, _)| dir))
        };
        let all = ["1", "2", "3", "4"];
        assert_eq!(found(&all, "/mnt/docs/a").unwrap().unwrap().short_id(), "4");
        assert_eq!(found(&all, "/home/a").unwrap_err().to_string(), "silent");
        assert!(found(&["1", "3", "4"], "/home/a").unwrap().is_none());
    }

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
