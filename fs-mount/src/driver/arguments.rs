//! What requests say, in the volume's words.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

use fuser::{FileHandle, INodeNo, OpenAccMode, OpenFlags, RenameFlags};
use volume::{
    Deed, Error, Result,
    audit::Op,
    node::{Allocate, Caller, Handle, Ino, NAME_MAX, NewNode, OpenMode, RenameMode, SetXattr},
};

use super::calls::Request;

/// A name in a directory, as a request gives it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) request: Request,
    pub(super) parent: Ino,
    name: &'a [u8],
}

impl<'a> Place<'a> {
    pub(super) fn new(what: &'static str, parent: INodeNo, name: &'a OsStr) -> Self {
        Self { request: Request::new(what, parent), parent: Ino(parent.0), name: name.as_bytes() }
    }

    /// Another name of the same request.
    pub(super) fn beside(&self, parent: INodeNo, name: &'a OsStr) -> Self {
        Self { request: self.request, parent: Ino(parent.0), name: name.as_bytes() }
    }

    /// Something that is done with it.
    pub(super) fn deed(&self, op: Op) -> Deed<'a> {
        Deed { op, at: self.parent, name: Some(self.name), to: None }
    }

    /// Something that is done with what is at another place, which gets it.
    pub(super) fn deed_to(&self, op: Op, to: &Place<'a>) -> Deed<'a> {
        Deed { to: Some((to.parent, to.name)), ..self.deed(op) }
    }

    /// The name, unless it is longer than any here: the kernel lets up to 1,024 bytes through.
    pub(super) fn name(&self) -> Result<&'a [u8]> {
        if self.name.len() > NAME_MAX { Err(Error::NameTooLong) } else { Ok(self.name) }
    }
}

pub(super) fn handle(fh: FileHandle) -> Handle {
    Handle(fh.0)
}

pub(super) fn caller(req: &fuser::Request, umask: u32) -> Caller {
    let umask = (umask & 0o777) as u16;
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid(), umask, is_member: Some(is_member) }
}

/// Whether a process is in a group that isn't its own: requests only tell of that one. A process that is gone, or in a
/// namespace that can't be seen from here, is in none.
fn is_member(pid: u32, gid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| names_group(&status, gid))
}

/// Whether `status`, as proc(5) describes it, has `gid` among the supplementary groups.
fn names_group(status: &str, gid: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid))
}

/// Something that is done with a thing.
pub(super) fn deed_with(op: Op, ino: INodeNo) -> Deed<'static> {
    Deed { op, at: Ino(ino.0), name: None, to: None }
}

/// The permission bits of a mode.
pub(super) fn bits(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

pub(super) fn node_of_type(mode: u32, rdev: u32) -> Result<NewNode<'static>> {
    Ok(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => NewNode::File,
        libc::S_IFIFO => NewNode::Fifo,
        libc::S_IFSOCK => NewNode::Socket,
        libc::S_IFCHR => NewNode::CharDevice(rdev),
        libc::S_IFBLK => NewNode::BlockDevice(rdev),
        _ => return Err(Error::Invalid),
    })
}

pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let (read, write) = match flags.acc_mode() {
        OpenAccMode::O_RDONLY => (true, false),
        OpenAccMode::O_WRONLY => (false, true),
        OpenAccMode::O_RDWR => (true, true),
    };
    OpenMode { read, write, append: flags.0 & libc::O_APPEND != 0, truncate: flags.0 & libc::O_TRUNC != 0 }
}

pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(Error::Invalid)
    }
}

pub(super) fn allocation(mode: i32) -> Result<Allocate> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_AND_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(Allocate::Extend),
        libc::FALLOC_FL_KEEP_SIZE => Ok(Allocate::KeepSize),
        PUNCH => Ok(Allocate::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::ZeroRange { keep_size: false }),
        ZERO_AND_KEEP => Ok(Allocate::ZeroRange { keep_size: true }),
        _ => Err(Error::NotSupported),
    }
}

pub(super) fn set_xattr(flags: i32) -> Result<SetXattr> {
    match flags {
        0 => Ok(SetXattr::Any),
        libc::XATTR_CREATE => Ok(SetXattr::Create),
        libc::XATTR_REPLACE => Ok(SetXattr::Replace),
        _ => Err(Error::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_255_bytes_pass_and_longer_ones_dont() {
        let name = "n".repeat(NAME_MAX + 1);
        assert!(Place::new("lookup", INodeNo(1), OsStr::new(&name[1..])).name().is_ok());
        assert!(matches!(Place::new("lookup", INodeNo(1), OsStr::new(&name)).name(), Err(Error::NameTooLong)));
    }

    #[test]
    fn open_flags_are_told_apart() {
        let mode = open_mode(OpenFlags(libc::O_RDWR | libc::O_APPEND | libc::O_TRUNC | libc::O_NOATIME));
        assert!(mode.read && mode.write && mode.append && mode.truncate);
        let mode = open_mode(OpenFlags(libc::O_WRONLY));
        assert!(!mode.read && mode.write && !mode.append && !mode.truncate);
        let mode = open_mode(OpenFlags(libc::O_RDONLY));
        assert!(mode.read && !mode.write);
    }

    #[test]
    fn renaming_knows_two_flags_and_no_mixture() {
        let mode = |bits| rename_mode(RenameFlags::from_bits_retain(bits)).ok();
        assert_eq!(mode(0), Some(RenameMode::Replace));
        assert_eq!(mode(libc::RENAME_NOREPLACE), Some(RenameMode::NoReplace));
        assert_eq!(mode(libc::RENAME_EXCHANGE), Some(RenameMode::Exchange));
        assert_eq!(mode(libc::RENAME_WHITEOUT), None);
        assert_eq!(mode(libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE), None);
        assert_eq!(mode(1 << 30), None);
    }

    #[test]
    fn only_modes_of_fallocate_that_can_be_kept_are_taken() {
        assert_eq!(allocation(0).unwrap(), Allocate::Extend);
        assert_eq!(allocation(libc::FALLOC_FL_KEEP_SIZE).unwrap(), Allocate::KeepSize);
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(allocation(punch).unwrap(), Allocate::PunchHole);
        let zero = libc::FALLOC_FL_ZERO_RANGE;
        assert_eq!(allocation(zero | libc::FALLOC_FL_KEEP_SIZE).unwrap(), Allocate::ZeroRange { keep_size: true });
        for mode in
            [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE, zero | 0x40]
        {
            assert!(matches!(allocation(mode), Err(Error::NotSupported)), "mode {mode:#x}");
        }
    }

    #[test]
    fn setting_xattrs_knows_its_flags() {
        assert_eq!(set_xattr(0).unwrap(), SetXattr::Any);
        assert_eq!(set_xattr(libc::XATTR_CREATE).unwrap(), SetXattr::Create);
        assert_eq!(set_xattr(libc::XATTR_REPLACE).unwrap(), SetXattr::Replace);
        assert!(set_xattr(libc::XATTR_CREATE | libc::XATTR_REPLACE).is_err());
    }

    #[test]
    fn a_process_is_in_its_supplementary_groups() {
        let status = "Name:\tsh\nGid:\t5\t5\t5\t5\nGroups:\t20 100 \nNStgid:\t7\n";
        assert!(names_group(status, 20) && names_group(status, 100));
        assert!(!names_group(status, 5) && !names_group(status, 7) && !names_group(status, 0));
        assert!(!names_group("Groups:\n", 0) && !names_group("", 0));
        assert!(!is_member(u32::MAX, 0));
    }

    #[test]
    fn special_files_are_made_by_their_type() {
        assert!(matches!(node_of_type(libc::S_IFBLK | 0o600, 0x801), Ok(NewNode::BlockDevice(0x801))));
        assert!(matches!(node_of_type(0o600, 0), Ok(NewNode::File)));
        assert!(matches!(node_of_type(libc::S_IFLNK | 0o777, 0), Err(Error::Invalid)));
    }
}
