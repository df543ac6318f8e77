//! Whom members may send files to, and who a device is that sends some. Nothing of a send is in the volume.

use crypto::{DeviceId, UserId};

use crate::{
    Volume,
    error::{Error, Result},
    member::Role,
};

/// The user of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correspondent {
    /// Which.
    pub user: UserId,
    /// Their name in the volume.
    pub name: String,
    /// What they are; a keeper sends nothing.
    pub role: Role,
}

impl Volume {
    /// Who a device belongs to; `None` if it is no member's, or one's who was removed.
    pub fn correspondent(&self, device: &DeviceId) -> Option<Correspondent> {
        let core = self.inner.core.lock();
        let row = core.members.user_of(device)?;
        let user = row.public.id();
        Some(Correspondent { user, name: core.members.shown_name(&user), role: row.role })
    }

    /// The user of this name, if files can be sent to them.
    ///
    /// # Errors
    /// There is no such member, or nobody who reads.
    pub fn recipient(&self, name: &str) -> Result<UserId> {
        let core = self.inner.core.lock();
        core.reader_named(name)
    }

    /// What a user is called to whom files can be sent; `None` for anybody else.
    pub fn recipient_name(&self, user: &UserId) -> Option<String> {
        let core = self.inner.core.lock();
        let row = core.members.users.get(user).filter(|row| !row.removed && row.role > Role::Keeper);
        row.map(|_| core.members.shown_name(user))
    }

    /// The devices of a user, but for this one.
    pub fn other_devices_of(&self, user: &UserId) -> Vec<DeviceId> {
        let core = self.inner.core.lock();
        let me = core.device.id();
        let theirs = |device: &DeviceId| core.members.user_of(device).is_some_and(|row| row.public.id() == *user);
        core.members.devices.keys().filter(|device| **device != me && theirs(device)).copied().collect()
    }

    /// Whether a user belongs to the volume and may get files.
    pub fn is_recipient(&self, user: &UserId) -> Result<()> {
        self.recipient_name(user).map(drop).ok_or_else(|| Error::Refused("was removed from the volume".to_owned()))
    }
}
