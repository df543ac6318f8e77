//! Whose the volume is: its founder's, until they hand it over.
//!
//! The owner is senior to everybody and can't be removed; in all else they are an admin. Handing over is a value of the new
//! owner's standing with the role `owner`, by whoever was the owner by what they had seen. These values form chains, and the
//! one that counts is followed from the founder on: where an owner handed over twice apart, the least one counts.
//!
//! Invariant: whether a transfer counts follows from transfers, and from removals of the owner's devices by their own older
//! ones; nobody else's standing decides it. So what everybody else is can build on it.

use crypto::{DeviceId, UserId};

use crate::{
    apply::decode,
    commit::{ChangeKind, Head},
    core::Core,
    error::{Error, Result},
    member::{MemberRow, Role, StandingValue},
    standing::Within,
    version::{Dot, ValueRef},
};

/// One transfer.
#[derive(Clone, Copy)]
struct Transfer {
    at: ValueRef,
    count: u64,
    by: UserId,
    device: DeviceId,
    to: UserId,
    /// The transfer that made its author the owner, by what they had seen; `None` for the founder.
    after: Option<ValueRef>,
}

impl Core {
    /// The owner by what is looked at, without the transfers that had seen `dot`; `None` when none ever was made: then it is
    /// the founder, who comes before everybody anyway.
    pub(crate) fn owner(&mut self, within: Within, beside: Option<Dot>) -> Result<Option<UserId>> {
        if !self.has_transfers() {
            return Ok(None);
        }
        let last = self.transfers(within, beside)?.pop();
        last.map_or_else(|| self.founder(), |last| Ok(last.to)).map(Some)
    }

    /// Whether a user is the owner, by what is looked at.
    pub(crate) fn is_owner(&mut self, user: &UserId, within: Within) -> Result<bool> {
        let owner = self.owner(within, None)?;
        Ok(owner.map_or_else(|| self.founder(), Ok)? == *user)
    }

    /// Whether a transfer is one of those that lead to the owner.
    pub(crate) fn counts_as_transfer(&mut self, at: ValueRef, within: Within) -> Result<bool> {
        Ok(self.transfers(within, None)?.iter().any(|transfer| transfer.at == at))
    }

    /// Takes away the values that a user's last transfer among them settles: all that whoever made it had seen.
    pub(crate) fn drop_settled(&mut self, values: &mut Vec<StandingValue>, within: Within) -> Result<()> {
        if values.iter().all(|value| value.role != Some(Role::Owner)) {
            return Ok(());
        }
        let transfers = self.transfers(within, None)?;
        let is_here = |transfer: &&Transfer| values.iter().any(|value| value.at == transfer.at);
        let Some(last) = transfers.iter().rfind(is_here).map(|transfer| transfer.at) else { return Ok(()) };
        let mut left = Vec::new();
        for value in values.drain(..) {
            if value.at == last || !self.value_covers(last, value.at)? {
                left.push(value);
            }
        }
        *values = left;
        Ok(())
    }

    fn founder(&self) -> Result<UserId> {
        // Nobody else was admitted by a commit before which there was none.
        let founder = self.members.users.iter().find(|(_, row)| row.count == 1);
        founder.map(|(id, _)| *id).ok_or_else(|| Error::damaged("the volume's founder"))
    }

    pub(crate) fn has_transfers(&self) -> bool {
        let fresh = |row: &MemberRow| matches!(row, MemberRow::User(row) if row.transfers().next().is_some());
        !self.members.transfers().is_empty() || self.overlay.members.iter().any(fresh)
    }

    /// The transfers that lead from the founder to the owner, in their order.
    fn transfers(&mut self, within: Within, beside: Option<Dot>) -> Result<Vec<Transfer>> {
        let mut all: Vec<Transfer> = Vec::new();
        for (to, StandingValue { at, count, .. }) in self.known_transfers() {
            let is_seen = match within {
                Within::Seen(dot) => self.covers(dot, at.dot)?,
                Within::All => true,
            };
            let is_later = match beside {
                Some(dot) => self.covers(at.dot, dot)?,
                None => false,
            };
            if !is_seen || is_later {
                continue;
            }
            let device = self.branch_of(at.dot)?.device;
            let (by, _) = self.author(&device, at.dot)?;
            let mut place = all.len();
            while place > 0 && self.rank((all[place - 1].at, all[place - 1].count), (at, count))?.is_gt() {
                place -= 1;
            }
            all.insert(place, Transfer { at, count, by, device, to, after: None });
        }
        // (Whatever one had seen is before it.)
        for n in 0..all.len() {
            let dot = all[n].at.dot;
            let mut seen = Vec::new();
            for earlier in &all[..n] {
                if earlier.at.dot != dot && self.covers(dot, earlier.at.dot)? {
                    seen.push(*earlier);
                }
            }
            all[n].after = self.chain(&seen, Within::Seen(dot))?.last().map(|last| last.at);
        }
        self.chain(&all, within)
    }

    /// Follows transfers, which are in their order.
    fn chain(&mut self, all: &[Transfer], within: Within) -> Result<Vec<Transfer>> {
        let mut chain: Vec<Transfer> = Vec::new();
        let mut left = all.to_vec();
        while !left.is_empty() {
            let owner = chain.last().map_or_else(|| self.founder(), |last| Ok(last.to))?;
            let last = chain.last().map(|last| last.at);
            left.retain(|next| last.is_none_or(|last| next.at != last));
            let mut next = None;
            for transfer in left.iter().filter(|t| t.by == owner && t.to != owner && t.after == last) {
                if self.stays_own(&transfer.device, transfer.at.dot, within)? {
                    next = Some(*transfer);
                    break;
                }
            }
            match next {
                Some(next) => chain.push(next),
                None => break,
            }
        }
        Ok(chain)
    }

    fn known_transfers(&self) -> Vec<(UserId, StandingValue)> {
        let mut known = self.members.transfers().clone();
        for row in &self.overlay.members {
            if let MemberRow::User(row) = row {
                known.extend(row.transfers());
            }
        }
        known.into_values().collect()
    }

    /// Whether no older device of the same user cuts this commit of a device.
    fn stays_own(&mut self, device: &DeviceId, dot: Dot, within: Within) -> Result<bool> {
        let Some(row) = self.device_row(device) else { return Ok(false) };
        let mut admitted = false;
        for at in row.granted {
            if !admitted && self.is_looked_at(within, at)? && self.covers(dot, at.dot)? {
                admitted = self.is_let_in(device, at, within)?;
            }
        }
        if !admitted {
            return Ok(false);
        }
        for removal in row.expelled {
            let at = removal.at;
            if !self.is_looked_at(within, at)? || self.covers(at.dot, dot)? {
                continue;
            }
            let by = self.branch_of(at.dot)?.device;
            let (author, _) = self.author(&by, at.dot)?;
            if author == row.user && (by == *device || self.is_elder(&by, device, at.dot, within)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The same for the admission of a device: a user's first one, or one that an older device let in.
    fn is_let_in(&mut self, device: &DeviceId, at: ValueRef, within: Within) -> Result<bool> {
        let head: Head = decode(&self.change(at)?.head)?;
        let ChangeKind::Device { ticket, user, proof, .. } = head.kind else { return Ok(true) };
        if proof.is_none() {
            let by = self.branch_of(at.dot)?.device;
            return self.is_elder(&by, device, at.dot, within);
        }
        let invitations = self.device_invite(&ticket).map(|row| row.invitations).unwrap_or_default();
        for invited in invitations.into_iter().filter(|i| i.user == user && i.expires.is_none()) {
            let by = self.branch_of(invited.at.dot)?.device;
            if self.covers(at.dot, invited.at.dot)? && self.is_elder(&by, device, invited.at.dot, within)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a device is older than another, and this commit of it not cut. (Ever older ones come to an end.)
    fn is_elder(&mut self, device: &DeviceId, than: &DeviceId, dot: Dot, within: Within) -> Result<bool> {
        Ok(self.is_older(device, than)? && self.stays_own(device, dot, within)?)
    }
}
