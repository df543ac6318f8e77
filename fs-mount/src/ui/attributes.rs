//! What a file has beside its content: read from one, given to the one that takes its place.
//!
//! A name that is moved over a file brings the new file's permissions with it. What only its owner could read would be open to
//! all members then, so the new one is given the old one's first; where that can't be, nothing is replaced.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::{
    fs::{Gid, Mode, Uid, XattrFlags, fchmod, fchown, fremovexattr, fsetxattr, fstat, getxattr, listxattr},
    io::Errno,
};

/// The list of who may use a file.
const ACL: &str = "system.posix_acl_access";
/// The name of the member that it belongs to; it isn't listed, and can't be set.
const OWNER: &str = "user.p2pfs.owner";
/// What programs and people note.
const USERS_OWN: &[u8] = b"user.";
/// No value, and no list of names, has more bytes.
const LARGEST: usize = 64 << 10;
/// Permissions without the bits that make programs run as somebody else: those go wherever something is written.
const PERMISSIONS: u32 = 0o777;
/// What all other members have where they may read and write.
const MEMBERS_WRITE: u32 = 0o060;

/// The attributes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    mode: u32,
    account: (u32, u32),
    member: Option<Vec<u8>>,
    acl: Option<Vec<u8>>,
    users_own: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A path to what is open, also if only to be looked at: then it isn't in the log as read.
fn way_to(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn value(file: impl AsFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; LARGEST];
    match getxattr(way_to(file), name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl Attributes {
    /// Those of a file that is open.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        let file = file.as_fd();
        let status = fstat(file)?;
        let mut names = vec![0; LARGEST];
        let length = listxattr(way_to(file), &mut names[..])?;
        let mut users_own = BTreeMap::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(USERS_OWN)) {
            if let Some(value) = value(file, name)? {
                users_own.insert(name.to_vec(), value);
            }
        }
        Ok(Self {
            mode: status.st_mode & PERMISSIONS,
            account: (status.st_uid, status.st_gid),
            member: value(file, OWNER.as_bytes())?,
            acl: value(file, ACL.as_bytes())?,
            users_own,
        })
    }

    /// Gives them to another file.
    ///
    /// # Errors
    /// It can't have all of them, and may have some.
    pub(super) fn give(&self, file: impl AsFd) -> io::Result<()> {
        let file = file.as_fd();
        let own = Self::of(file)?;
        // Who owns it decides about it, and would be another one. Where all members write that makes no difference to any.
        if own.member != self.member && (self.acl.is_some() || self.mode & MEMBERS_WRITE != MEMBERS_WRITE) {
            return Err(io::Error::other(
                "it belongs to somebody else, who decides who may use it: keep both, or change it with a program",
            ));
        }
        if own.account != self.account {
            let (user, group) = self.account;
            fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        for (name, value) in &self.users_own {
            fsetxattr(file, &name[..], value, XattrFlags::empty())?;
        }
        match &self.acl {
            Some(acl) => fsetxattr(file, ACL, acl, XattrFlags::empty())?,
            // What it has from its folder.
            None if own.acl.is_some() => fremovexattr(file, ACL)?,
            None => {}
        }
        Ok(fchmod(file, Mode::from_raw_mode(self.mode))?)
    }
}
