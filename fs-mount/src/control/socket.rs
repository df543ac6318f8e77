//! Unix sockets at paths of any length.
//!
//! A socket's address holds 107 bytes of path. A longer path is reached through its folder's descriptor:
//! `/proc/self/fd/N/name` is short and leads to the same place.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// The longest path that fits into a socket's address.
const ADDRESS_LIMIT: usize = 107;

/// Calls `action` with a path to `socket` that is short enough.
pub(crate) fn with_short_path<T>(socket: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if socket.as_os_str().as_bytes().len() <= ADDRESS_LIMIT {
        return action(socket);
    }
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let folder = fs::File::open(folder)?;
    action(&PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_long_path_works_for_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let socket = deep.join("4f4f4f4f4f4f4f4f.sock");
        let _listener = with_short_path(&socket, |p| UnixListener::bind(p)).unwrap();
        assert!(socket.exists());
        with_short_path(&socket, |p| UnixStream::connect(p)).unwrap();
    }
}
