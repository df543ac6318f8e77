//! Invitations, of users and of devices: listing those that are open, and withdrawing them.
//!
//! Owns the rule of withdrawing, its rows, and what it forbids. An admission whose author knew that its ticket was
//! withdrawn is forbidden; one that was made apart from the withdrawal stands, since both are what people wanted then.

use std::collections::BTreeSet;

use crypto::{DeviceId, PublicKey, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Volume,
    apply::{Origin, rule},
    commit::{ChangeKind, Head, MemberBody},
    core::Core,
    error::{Error, Result},
    member::{Invitation, InviteRow, MemberRow},
    time::Timestamp,
    version::{Dot, ValueRef},
};

/// That a ticket was withdrawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WithdrawnRow {
    pub ticket: PublicKey,
    pub by: Vec<Withdrawal>,
}

/// By one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Withdrawal {
    pub user: UserId,
    /// They had invited a user with it themselves, or are an admin.
    pub of_users: bool,
    /// They are an admin: it holds for everybody's next device, not for their own alone.
    pub of_devices: bool,
    pub at: ValueRef,
}

impl WithdrawnRow {
    /// Whether nobody is let in as a user for it any more.
    pub(crate) fn for_users(&self) -> bool {
        self.by.iter().any(|by| by.of_users)
    }

    /// Whether no device of that user is let in for it any more.
    pub(crate) fn for_devices_of(&self, user: &UserId) -> bool {
        self.by.iter().any(|by| by.of_devices || by.user == *user)
    }
}

/// What an invitation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvitedAs {
    /// A new member.
    Member(crate::Role),
    /// A further device of who invites.
    Device,
    /// The same with no end: what an exported key holds.
    ExportedKey,
}

/// An invitation that can still be used, as listed.
#[derive(Clone, Debug)]
pub struct OpenInvitation {
    /// The ticket's public key.
    pub ticket: PublicKey,
    /// What its bearer becomes.
    pub of: InvitedAs,
    /// Until when.
    pub expires: Option<Timestamp>,
    /// Who invited.
    pub user: UserId,
    /// Their name.
    pub name: String,
    /// With which of their devices.
    pub device: DeviceId,
}

impl Core {
    pub(crate) fn apply_withdrawal(&mut self, origin: &Origin, at: ValueRef, ticket: &PublicKey) -> Result<()> {
        let admits = origin.role.may_admit();
        let (mut known, mut users) = (false, false);
        if let Some(invite) = self.invite(ticket) {
            for (_, _, invited) in invite.all().collect::<Vec<_>>() {
                if origin.local || self.covers(origin.dot, invited.dot)? {
                    known = true;
                    users |= self.author_of(origin, invited)? == origin.user;
                }
            }
        }
        let (mut devices, mut own) = (false, false);
        for invited in self.device_invite(ticket).map(|row| row.invitations).unwrap_or_default() {
            if origin.local || self.covers(origin.dot, invited.at.dot)? {
                devices = true;
                own |= invited.user == origin.user;
            }
        }
        if !known && !devices {
            return rule("a withdrawal of an invitation that there is not");
        }
        if !admits && !users && !own {
            return rule("a withdrawal of another's invitation");
        }
        let mut row = self.withdrawn(ticket).unwrap_or(WithdrawnRow { ticket: *ticket, by: Vec::new() });
        row.by.push(Withdrawal { user: origin.user, of_users: admits || users, of_devices: admits, at });
        self.overlay.members.push(MemberRow::Withdrawn(row));
        self.changed(crate::Changed::Members);
        Ok(())
    }

    /// The user who made a change that the author of `origin` has seen.
    fn author_of(&mut self, origin: &Origin, at: ValueRef) -> Result<UserId> {
        if at.dot == origin.dot {
            return Ok(origin.user);
        }
        let device = self.branch_of(at.dot)?.device;
        Ok(self.author(&device, at.dot)?.0)
    }

    /// Whether a commit lets somebody in for a ticket that its author knew to be withdrawn.
    pub(crate) fn admits_withdrawn(&mut self, dot: Dot, heads: &[Head]) -> Result<bool> {
        for head in heads {
            let (ticket, device_of) = match &head.kind {
                ChangeKind::Grant { ticket, .. } => (ticket, None),
                ChangeKind::Device { ticket, user, .. } => (ticket, Some(*user)),
                _ => continue,
            };
            let Some(row) = self.withdrawn(ticket) else { continue };
            for by in row.by {
                let holds = device_of.map_or(by.of_users, |user| by.of_devices || by.user == user);
                if holds && self.covers(dot, by.at.dot)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(crate) fn withdrawn(&self, ticket: &PublicKey) -> Option<WithdrawnRow> {
        let fresh = self.fresh_row(|row| match row {
            MemberRow::Withdrawn(row) if row.ticket == *ticket => Some(row),
            _ => None,
        });
        fresh.or_else(|| self.members.withdrawn.get(ticket).cloned())
    }

    /// Whether somebody may still be let in as a user for a ticket, but for the time.
    fn is_open(&self, invite: &InviteRow) -> bool {
        !invite.used && !self.members.withdrawn.get(&invite.ticket).is_some_and(WithdrawnRow::for_users)
    }

    pub(crate) fn list_invitations(&mut self, now: Timestamp) -> Result<Vec<OpenInvitation>> {
        let mut found: Vec<(PublicKey, InvitedAs, Option<Timestamp>, ValueRef)> = Vec::new();
        for row in self.members.invites.values().filter(|row| row.expires > now && self.is_open(row)) {
            found.push((row.ticket, InvitedAs::Member(row.role), Some(row.expires), row.at));
        }
        for row in self.members.device_invites.values() {
            let withdrawn = self.members.withdrawn.get(&row.ticket);
            for invited in &row.invitations {
                let over = withdrawn.is_some_and(|by| by.for_devices_of(&invited.user));
                match invited.expires {
                    _ if over => {}
                    None => found.push((row.ticket, InvitedAs::ExportedKey, None, invited.at)),
                    Some(expires) if expires > now && !row.used.contains(&invited.user) => {
                        found.push((row.ticket, InvitedAs::Device, Some(expires), invited.at));
                    }
                    Some(_) => {}
                }
            }
        }
        let mut listed = Vec::with_capacity(found.len());
        for (ticket, of, expires, at) in found {
            let device = self.branch_of(at.dot)?.device;
            let user = self.author(&device, at.dot)?.0;
            listed.push(OpenInvitation { ticket, of, expires, user, name: self.members.shown_name(&user), device });
        }
        listed.sort_by_key(|invitation| (invitation.expires.is_none(), invitation.expires, invitation.ticket));
        Ok(listed)
    }

    /// Withdraws the open invitations that devices made and that are to be removed. Exported keys stay: they are for the
    /// case that devices are lost.
    ///
    /// # Errors
    /// As any local change.
    pub(crate) fn withdraw_invitations_of(&mut self, devices: &BTreeSet<DeviceId>) -> Result<()> {
        if devices.is_empty() {
            return Ok(());
        }
        let now = self.now();
        let tickets: BTreeSet<PublicKey> = self
            .list_invitations(now)?
            .into_iter()
            .filter(|open| devices.contains(&open.device) && open.of != InvitedAs::ExportedKey)
            .map(|open| open.ticket)
            .collect();
        for ticket in tickets {
            self.emit::<MemberBody>(ChangeKind::Withdraw { ticket }, &[], None)?;
        }
        Ok(())
    }
}

impl Volume {
    /// The invitations of new members that can still be used.
    pub fn open_invitations(&self) -> Vec<Invitation> {
        let now = self.inner.clock.now();
        let core = self.inner.core.lock();
        let open = core.members.invites.values().filter(|i| i.expires > now && core.is_open(i));
        open.map(|i| Invitation { ticket: i.ticket, role: i.role, expires: i.expires }).collect()
    }

    /// All invitations that can still be used, those that end first in front.
    ///
    /// # Errors
    /// The store failed.
    pub fn invitations(&self) -> Result<Vec<OpenInvitation>> {
        let now = self.inner.clock.now();
        self.inner.core.lock().list_invitations(now)
    }

    /// Withdraws an invitation: whoever knows of it lets nobody in for its ticket any more.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none that could be used, or it is another's and this user no admin.
    pub fn withdraw(&self, ticket: &PublicKey) -> Result<()> {
        let now = self.inner.clock.now();
        // A commit of its own: a reader's, in which there is anything else, counts for nothing.
        self.local_commit(|core| {
            let open = core.list_invitations(now)?;
            let mut inviters = open.iter().filter(|open| open.ticket == *ticket).map(|open| open.user).peekable();
            if inviters.peek().is_none() {
                return Err(Error::Refused("there is no such open invitation: see `p2pfs invitations`".to_owned()));
            }
            let admits = core.members.user_of(&core.device.id()).is_some_and(|user| user.role.may_admit());
            if !admits && !inviters.any(|inviter| inviter == core.user.id()) {
                return Err(Error::Refused("only who invited, the owner and admins withdraw an invitation".to_owned()));
            }
            core.emit::<MemberBody>(ChangeKind::Withdraw { ticket: *ticket }, &[], None)?;
            Ok(())
        })
    }
}
