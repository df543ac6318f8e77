//! What the kernel's mount table says of a path, read without sending the mount a request.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use log::debug;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// Its device numbers, as `major:minor`: no other mount's at the same time.
    device: String,
    /// Where it is.
    pub(super) mountpoint: PathBuf,
    /// Its type.
    pub(super) kind: String,
}

impl MountEntry {
    /// Reads a line of the table; `None` for one that isn't as proc(5) describes it.
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let (device, _root, mountpoint) = (mount.next()?, mount.next()?, mount.next()?);
        let kind = filesystem.split(' ').next().filter(|kind| !kind.is_empty())?;
        Some(Self {
            device: device.to_owned(),
            mountpoint: PathBuf::from(OsString::from_vec(unescape(mountpoint))),
            kind: String::from_utf8_lossy(&unescape(kind)).into_owned(),
        })
    }

    /// Lets the kernel read ahead this far. Only root may, and FUSE's own negotiation can't go over 128 KiB; a mount
    /// that keeps the default is only slower.
    pub(super) fn raise_read_ahead(&self, kib: u32) {
        let setting = Path::new("/sys/class/bdi").join(&self.device).join("read_ahead_kb");
        if let Err(failure) = fs::write(setting, kib.to_string()) {
            debug!("the read-ahead stays as the kernel set it: {failure}");
        }
    }
}

/// The mount that is on top at `mountpoint`, if any is.
pub(super) fn topmost_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(entries()?.into_iter().rfind(|entry| entry.mountpoint == mountpoint))
}

/// Whether that filesystem is mounted anywhere.
pub(super) fn has(mount: &MountEntry) -> io::Result<bool> {
    Ok(entries()?.iter().any(|entry| entry.device == mount.device))
}

fn entries() -> io::Result<Vec<MountEntry>> {
    let table = fs::read(MOUNT_TABLE)?;
    // Somebody else's mount may have a path that is no text: that is none of ours.
    let lines = table.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| MountEntry::parse(std::str::from_utf8(line).ok()?)).collect())
}

/// `path` without symlinks; also where the mount at its end is dead and answers nothing.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match absolute.canonicalize() {
        Err(failure) if failure.raw_os_error() == Some(libc::ENOTCONN) => {
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(failure),
            }
        }
        resolved => resolved,
    }
}

/// Whether the process that served the mount at `mountpoint` is gone.
pub(super) fn is_dead(mountpoint: &Path) -> bool {
    // The kernel answers `stat` from its cache, also for the dead; for this it must ask.
    rustix::fs::statvfs(mountpoint).is_err_and(|failure| failure == rustix::io::Errno::NOTCONN)
}

/// Undoes the table's escapes: `\040` for a space and so on.
fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line = r"81 29 0:55 / /home/a/my\040files rw,nosuid,nodev,noatime shared:1 - fuse.p2pfs p2pfs rw,user_id=0";
        let entry = MountEntry::parse(line).unwrap();
        assert_eq!(entry.device, "0:55");
        assert_eq!(entry.mountpoint, Path::new("/home/a/my files"));
        assert_eq!(entry.kind, "fuse.p2pfs");
    }

    #[test]
    fn optional_fields_may_be_missing() {
        let entry = MountEntry::parse("22 1 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!((entry.device.as_str(), entry.kind.as_str()), ("8:1", "ext4"));
    }

    #[test]
    fn other_lines_are_passed_over() {
        for line in ["", "22 1 8:1 / /", "22 1 - ext4", "22 1 8:1 / / rw - "] {
            assert_eq!(MountEntry::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn escapes_are_undone_and_other_backslashes_stay() {
        assert_eq!(unescape(r"a\011b\134c"), b"a\tb\\c");
        assert_eq!(unescape(r"a\9\04"), br"a\9\04");
    }

    #[test]
    fn something_is_mounted_at_the_root() {
        assert!(topmost_at(Path::new("/")).unwrap().is_some());
    }
}
