//! What a mount sees of a node, and asks of it.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Longest name of an entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub const TARGET_MAX: usize = 4095;
/// Most names a node may have.
pub const LINK_MAX: u32 = 65_000;

/// This device's number for a node: persistent, from a counter of its own, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeKind {
    /// Regular file.
    #[serde(rename = "f")]
    File,
    /// Directory.
    #[serde(rename = "d")]
    Directory,
    /// Symbolic link.
    #[serde(rename = "l")]
    Symlink,
    /// Named pipe.
    #[serde(rename = "p")]
    Fifo,
    /// Unix socket.
    #[serde(rename = "s")]
    Socket,
    /// Character device.
    #[serde(rename = "c")]
    CharDevice,
    /// Block device.
    #[serde(rename = "b")]
    BlockDevice,
}

/// What `stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The node.
    pub ino: Ino,
    /// What it is.
    pub kind: NodeKind,
    /// Bytes; a symlink's is its target's length.
    pub size: u64,
    /// Bytes that take room (holes don't).
    pub allocated: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Last access as set; reading doesn't change it (noatime).
    pub atime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// The low twelve bits.
    pub mode: u16,
    /// Names it has; for a directory 2 and one per subdirectory.
    pub links: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// This device's user may not read it: only its name, kind and owner are known.
    pub sealed: bool,
    /// On its user's own mount: the number of the owner, where it doesn't show as this user's.
    pub other: Option<u32>,
    /// On its user's own mount: the permission bits, those of the group being what this user may.
    pub own_mode: u16,
}

/// The process behind a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number.
    pub pid: u32,
    /// Its file creation mask.
    pub umask: u16,
    /// Tells whether the process with a number is in a group that isn't its own. `None`: it is in no other.
    pub is_member: Option<fn(pid: u32, gid: u32) -> bool>,
}

impl Caller {
    /// Whether it may keep or set the set-group-id bit of what belongs to a group.
    pub(crate) fn may_lend(&self, gid: u32) -> bool {
        self.uid == 0 || self.gid == gid || self.is_member.is_some_and(|is_member| is_member(self.pid, gid))
    }
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub enum NewNode<'a> {
    /// An empty file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device of this number.
    CharDevice(u32),
    /// A block device of this number.
    BlockDevice(u32),
}

impl NewNode<'_> {
    /// Its kind.
    pub fn kind(&self) -> NodeKind {
        match self {
            NewNode::File => NodeKind::File,
            NewNode::Directory => NodeKind::Directory,
            NewNode::Symlink(_) => NodeKind::Symlink,
            NewNode::Fifo => NodeKind::Fifo,
            NewNode::Socket => NodeKind::Socket,
            NewNode::CharDevice(_) => NodeKind::CharDevice,
            NewNode::BlockDevice(_) => NodeKind::BlockDevice,
        }
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The moment of the call.
    Now,
    /// This one.
    At(Timestamp),
}

/// Attributes to set; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttributeChange {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Numeric owner.
    pub uid: Option<u32>,
    /// Numeric group.
    pub gid: Option<u32>,
    /// The number of the member who gets it.
    pub owner: Option<u32>,
    /// Truncate or extend to this many bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it leads to.
    pub attributes: Attributes,
    /// Reading on after this entry starts from here.
    pub cookie: u64,
}

/// What rename does with an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Emptied first.
    pub truncate: bool,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// What fallocate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Grows the file when the range passes its end.
    Extend,
    /// Reserves; here nothing needs doing.
    KeepSize,
    /// Makes the range a hole; the size stays.
    PunchHole,
    /// Makes the range zeros.
    ZeroRange {
        /// The size stays, whatever the range.
        keep_size: bool,
    },
}

/// Whether an extended attribute must or mustn't exist to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Either.
    Any,
    /// It mustn't.
    Create,
    /// It must.
    Replace,
}

/// What `statfs` tells.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// Size of the disk the store is on.
    pub total_bytes: u64,
    /// What is free there.
    pub free_bytes: u64,
    /// What of it this user may use.
    pub available_bytes: u64,
    /// Nodes this device knows.
    pub nodes: u64,
    /// Preferred unit of reading and writing.
    pub block_size: u32,
}
