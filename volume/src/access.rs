//! Who may what at a path, told in names, and changed by them.

use crate::{
    Changed, Volume,
    acl::{self, Acl},
    core::Core,
    error::{Error, Result},
    id::RealmId,
    member::Role,
    node::NodeKind,
    restore::Path,
    rights::{READ, WRITE},
};

/// Who may use what is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessReport {
    /// What is there.
    pub kind: NodeKind,
    /// The name of the user whose it is: they, and admins, decide.
    pub owner: String,
    /// All members may hold its key.
    pub members_read: bool,
    /// Every member, by name.
    pub users: Vec<UserAccess>,
    /// Whether this device's user decides about it.
    pub mine_to_change: bool,
}

/// What one member may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAccess {
    /// The name.
    pub user: String,
    /// Holds the key: reads it, looks into it.
    pub reads: bool,
    /// Others take their changes.
    pub writes: bool,
    /// Whose it is.
    pub owns: bool,
    /// They are named, and do not have what members have.
    pub named: bool,
    /// Would write, had they another role than this.
    pub held_back: Option<Role>,
}

impl Core {
    fn access_report(&mut self, path: &Path) -> Result<AccessReport> {
        let ino = self.at_path(path)?;
        let ino = self.carrier(ino)?;
        let node = self.node(ino)?;
        let shown = node.shown_access().ok_or_else(|| Error::damaged("access"))?;
        let me = self.user.id();
        let mut users = Vec::new();
        for member in self.members.list(&me) {
            let bits = node.rights_of(&member.user);
            let holds = member.role != Role::Keeper;
            users.push(UserAccess {
                reads: bits & READ != 0 && holds,
                writes: bits & WRITE != 0 && member.role.may_write(),
                owns: member.user == shown.owner,
                named: shown.grants.iter().any(|(user, _)| *user == member.user),
                held_back: Some(member.role).filter(|role| bits & WRITE != 0 && !role.may_write()),
                user: member.name,
            });
        }
        Ok(AccessReport {
            kind: node.kind,
            owner: self.members.shown_name(&shown.owner),
            members_read: shown.realm == RealmId::MEMBERS,
            users,
            mine_to_change: self.may_own(ino)?,
        })
    }

    fn check_own_mount(&self) -> Result<()> {
        if self.local_uid.is_some() {
            return Ok(());
        }
        let why = "this is a mount for all accounts of this machine, where modes are for them: mount it without --allow-other";
        Err(Error::Refused(why.to_owned()))
    }

    fn member_named(&self, name: &str) -> Result<crypto::UserId> {
        let unknown = || Error::Refused(format!("nobody is called `{name}` in this volume: see `p2pfs users`"));
        self.members.user_named(name).ok_or_else(unknown)
    }

    /// A list of access as this machine has it: on a user's own mount their number in the volume stands for their account.
    pub(crate) fn local_list(&self, name: &[u8], value: &[u8]) -> Vec<u8> {
        if let Some(uid) = self.local_uid.filter(|_| name == acl::ACCESS || name == acl::DEFAULT)
            && let Ok(mut list) = Acl::parse(value)
        {
            list.swap_users(uid, self.members.number_of(&self.my_id));
            return list.encode();
        }
        value.to_vec()
    }
}

impl Volume {
    /// This is its user's own mount, on which their account has the number `uid`: modes and ACLs decide from now on which
    /// members may what. `None`: modes are for the accounts of this machine.
    pub fn set_own_mount(&self, uid: Option<u32>) {
        self.inner.core.lock().local_uid = uid;
    }

    /// The number that stands for this device's user on all mounts but their own.
    pub fn own_number(&self) -> u32 {
        let core = self.inner.core.lock();
        core.members.number_of(&core.my_id)
    }

    /// Who may use what is at a path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`] below what this user may not read.
    pub fn access(&self, path: &Path) -> Result<AccessReport> {
        self.inner.core.lock().access_report(path)
    }

    /// Lets one user read, write, or neither, whatever other members may.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] for who may not decide about it, [`Error::Refused`] for a name that is none.
    pub fn allow(&self, path: &Path, user: &str, read: bool, write: bool) -> Result<()> {
        self.beside_the_mount(|core| {
            core.check_own_mount()?;
            core.may_change()?;
            let number = core.members.number_of(&core.member_named(user)?);
            let ino = core.at_path(path)?;
            for part in core.own_parts(ino)? {
                core.change_access(part, None, |access, kind| {
                    let bits = if read || write { 4 } else { 0 } | if write { 2 } else { 0 };
                    let search = if kind == NodeKind::Directory && bits != 0 { 1 } else { 0 };
                    let mut list = Acl::parse(&access.acl).unwrap_or_else(|_| Acl::of_mode(access.mode));
                    list.set_user(number, Some(bits | search));
                    access.mode = access.mode & 0o7000 | list.mode();
                    access.acl = list.encode();
                })?;
                core.changed(Changed::Attributes(part));
            }
            Ok(())
        })
    }

    /// Gives what is at a path to another user.
    ///
    /// # Errors
    /// As [`Self::allow`].
    pub fn give(&self, path: &Path, user: &str) -> Result<()> {
        self.beside_the_mount(|core| {
            core.check_own_mount()?;
            core.may_change()?;
            let to = core.member_named(user)?;
            let ino = core.at_path(path)?;
            for part in core.own_parts(ino)? {
                core.change_access(part, Some(to), |_, _| {})?;
            }
            Ok(())
        })
    }
}
