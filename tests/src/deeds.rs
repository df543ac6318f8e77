//! What somebody may try with a file and a folder, with the system calls of ordinary programs.
//!
//! One list for all who go through it cell by cell: who may what, and what the log says of it.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::{Duration, SystemTime},
};

/// What is tried: a word for it, and the calls.
pub type Deed = (&'static str, fn(&Path) -> io::Result<()>);

/// With a file, in this order: the last two end it.
pub const WITH_FILE: [Deed; 11] = [
    ("stat", |path| fs::symlink_metadata(path).map(drop)),
    ("read", |path| fs::read(path).map(drop)),
    ("append", |path| OpenOptions::new().append(true).open(path)?.write_all(b"more")),
    ("truncate", |path| OpenOptions::new().write(true).truncate(true).open(path).map(drop)),
    ("get attribute", |path| xattr::list(path).map(drop)),
    ("set attribute", |path| xattr::set(path, "user.note", b"x")),
    ("times", |path| {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
    }),
    ("link", |path| fs::hard_link(path, path.with_extension("link"))),
    ("mode", |path| {
        let mode = fs::symlink_metadata(path)?.permissions().mode();
        fs::set_permissions(path, Permissions::from_mode(mode))
    }),
    ("rename", |path| fs::rename(path, path.with_extension("moved"))),
    ("unlink", |path| fs::remove_file(path.with_extension("moved"))),
];

/// With a folder that has a file `f`, a folder `sub` and a link `l`.
pub const WITH_FOLDER: [Deed; 12] = [
    ("stat", |path| fs::symlink_metadata(path).map(drop)),
    ("list", |path| fs::read_dir(path).map(drop)),
    ("look up", |path| fs::symlink_metadata(path.join("f")).map(drop)),
    ("read in it", |path| fs::read(path.join("f")).map(drop)),
    ("read a link", |path| fs::read_link(path.join("l")).map(drop)),
    ("create", |path| fs::write(path.join("new"), "new")),
    ("make a folder", |path| fs::create_dir(path.join("folder"))),
    ("make a link", |path| symlink("there", path.join("symlink"))),
    ("rename in it", |path| fs::rename(path.join("f"), path.join("g"))),
    ("remove a file", |path| fs::remove_file(path.join("l"))),
    ("remove a folder", |path| fs::remove_dir(path.join("sub"))),
    ("mode", |path| {
        let mode = fs::symlink_metadata(path)?.permissions().mode();
        fs::set_permissions(path, Permissions::from_mode(mode))
    }),
];
