//! Who is what in the volume, to whom: roles that changed, users and devices that were removed.
//!
//! What somebody is follows from the commits alone, whatever order they came in. A removal, or a lower role, cuts what the
//! removed did without having seen it and without having been seen by it: nobody can go on by pretending not to have heard.
//! So a value can stop counting when another arrives, and only values by seniors decide on it: admins rank by when they
//! became it, the owner ([`crate::ownership`]) first. Two admins can't remove each other, and no agreement is needed.
//!
//! Owns the values of what users and devices are, and who may write these. Does not own what becomes of commits that are
//! cut ([`crate::late`]), or keys.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use crypto::{DeviceId, UserId};

use crate::{
    apply::{decode, rule},
    commit::{ChangeKind, Head, MemberBody},
    core::Core,
    error::{Error, Result},
    member::{DeviceRow, MemberRow, Role, StandingValue, UserRow},
    version::{Dot, ValueRef},
    volume::Volume,
};

/// Which commits are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    /// Those that the author of this one had seen: what everybody judges alike, for ever.
    Seen(Dot),
    /// All that are known here.
    All,
}

/// Values that are looked through on the way from one to another that it superseded.
const MOST_STEPS: usize = 4096;

/// What was worked out with all that is known, until a value arrives that may change it.
pub(crate) type Verdicts = BTreeMap<ValueRef, bool>;

impl Core {
    pub(crate) fn is_looked_at(&mut self, within: Within, at: ValueRef) -> Result<bool> {
        match within {
            Within::Seen(dot) => self.covers(dot, at.dot),
            Within::All => Ok(true),
        }
    }

    /// What a device's commit counts as to whoever knows these; `None` for one that was removed.
    ///
    /// # Errors
    /// [`Error::Refused`] when nobody had admitted it by what it had seen.
    pub(crate) fn standing(&mut self, device: &DeviceId, dot: Dot, within: Within) -> Result<(UserId, Option<Role>)> {
        let (user, admitted) = self.author(device, dot)?;
        if !self.members.ever_changed() {
            return Ok((user, Some(admitted)));
        }
        if let Some((role, admissions)) = self.plain_standing(device, &user, dot, within)? {
            return Ok((user, self.all_count(admissions, within)?.then_some(role)));
        }
        for role in [Role::Owner, Role::Admin, Role::Writer, Role::Reader, Role::Keeper] {
            if self.is_at_least(device, user, dot, role, within)? {
                return Ok((user, Some(role)));
            }
        }
        Ok((user, None))
    }

    /// Whether a device's commit counts as one of somebody with this role or a higher one.
    pub(crate) fn is_at_least(
        &mut self,
        device: &DeviceId,
        user: UserId,
        dot: Dot,
        need: Role,
        within: Within,
    ) -> Result<bool> {
        stacker::maybe_grow(256 << 10, 4 << 20, || self.is_at_least_here(device, user, dot, need, within))
    }

    fn is_at_least_here(
        &mut self,
        device: &DeviceId,
        user: UserId,
        dot: Dot,
        need: Role,
        within: Within,
    ) -> Result<bool> {
        if need == Role::Owner && self.owner(Within::Seen(dot), None)?.is_some_and(|owner| owner != user) {
            return Ok(false);
        }
        if let Some((role, admissions)) = self.plain_standing(device, &user, dot, within)? {
            return Ok(role >= need && self.all_count(admissions, within)?);
        }
        // Somebody must have made them so before anything can have been taken from them: who looks in this order comes to
        // ever lower ranks, and to an end.
        let mut values = self.values_on_user(&user, within)?;
        // What one makes of oneself is for what comes after it. (The founder's first commit admits its author.)
        values.retain(|value| value.at.dot != dot || self.is_admission(value.at));
        let mut made = false;
        for value in &values {
            if value.role.is_some_and(|role| role >= need)
                && self.covers(dot, value.at.dot)?
                && self.counts(value.at, within)?
            {
                made = true;
                break;
            }
        }
        if !made {
            return Ok(false);
        }
        let (mut seen, mut beside) = (Vec::new(), Vec::new());
        for value in values {
            if self.covers(dot, value.at.dot)? {
                seen.push(value);
            } else if !self.covers(value.at.dot, dot)? {
                beside.push(value);
            }
        }
        self.drop_settled(&mut seen, within)?;
        let mut counting = Vec::new();
        for value in seen {
            if self.counts(value.at, within)? {
                counting.push(value);
            }
        }
        // Admissions of one user by admins apart: the least says the role.
        let mut admitted = false;
        for (n, value) in counting.iter().enumerate() {
            let mut outlived = false;
            for later in &counting[n + 1..] {
                outlived = outlived || !self.is_admission(later.at) && self.reaches(later.at, value.at)?;
            }
            if outlived || (admitted && self.is_admission(value.at)) {
                continue;
            }
            admitted |= self.is_admission(value.at);
            if value.role.is_none_or(|role| role < need) {
                return Ok(false);
            }
        }
        for value in beside {
            if !self.is_admission(value.at)
                && value.role.is_none_or(|role| role < need)
                && self.counts(value.at, within)?
            {
                return Ok(false);
            }
        }
        self.device_stays(device, dot, within)
    }

    /// As what somebody was admitted, and the admissions, theirs and their device's, on which alone it hangs that they are
    /// that; nothing if more has to be looked at. Nearly everybody was admitted once, and never made anything else.
    fn plain_standing(
        &mut self,
        device: &DeviceId,
        user: &UserId,
        dot: Dot,
        within: Within,
    ) -> Result<Option<(Role, [ValueRef; 2])>> {
        let plain_device = |row: &&DeviceRow| row.user == *user && row.expelled.is_empty();
        let Some([let_in]) = self.device_now(device).filter(plain_device).map(|row| row.granted.as_slice()) else {
            return Ok(None);
        };
        let Some(row) = self.user_now(user).filter(|row| row.standings.is_empty()) else { return Ok(None) };
        let (let_in, granted) = (*let_in, row.granted);
        let Some((_, role)) = self.admission(granted)?.filter(|(of, _)| of == user) else { return Ok(None) };
        // The founder may have handed the volume over.
        if role == Role::Owner && self.has_transfers() {
            return Ok(None);
        }
        for at in self.members.admitted_with(user).flat_map(|row| &row.granted).filter(|at| **at != granted) {
            if self.admission(*at)?.is_some_and(|(of, _)| of == *user) {
                return Ok(None);
            }
        }
        // Nothing is stored of a device whose author had not seen that it was let in, and by whom.
        let is_stored = self.branch_of(dot)?.tip >= dot.seq && self.branch_of(dot)?.device == *device;
        let seen_by = match within {
            Within::Seen(seen) => [Some(dot), Some(seen)],
            Within::All => [Some(dot), None],
        };
        for by in seen_by.into_iter().flatten().filter(|by| !(is_stored && *by == dot)) {
            if !self.covers(by, granted.dot)? || !self.covers(by, let_in.dot)? {
                return Ok(None);
            }
        }
        Ok(Some((role, [granted, let_in])))
    }

    fn all_count(&mut self, values: [ValueRef; 2], within: Within) -> Result<bool> {
        for at in values {
            if !self.counts(at, within)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether no removal of a device cuts this commit of it.
    fn device_stays(&mut self, device: &DeviceId, dot: Dot, within: Within) -> Result<bool> {
        let Some(row) = self.device_row(device) else { return Ok(true) };
        let mut admitted = false;
        for at in row.granted {
            let known = self.is_looked_at(within, at)? && self.covers(dot, at.dot)?;
            admitted = admitted || known && self.counts(at, within)?;
        }
        if !admitted {
            return Ok(false);
        }
        for value in row.expelled {
            if self.is_looked_at(within, value.at)?
                && !self.covers(value.at.dot, dot)?
                && self.counts(value.at, within)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All values of what a user is, in their order.
    fn values_on_user(&mut self, user: &UserId, within: Within) -> Result<Vec<StandingValue>> {
        let Some(row) = self.user_row(user) else { return Ok(Vec::new()) };
        let mut values: Vec<StandingValue> = Vec::new();
        let devices = self.members.admitted_with(user);
        let admissions: Vec<ValueRef> =
            devices.flat_map(|device| device.granted.iter().copied()).chain([row.granted]).collect();
        for at in admissions {
            if values.iter().all(|known| known.at != at)
                && self.is_looked_at(within, at)?
                && let Some((of, role)) = self.admission(at)?
                && of == *user
            {
                values.push(StandingValue { at, count: self.count_of(at)?, role: Some(role) });
            }
        }
        for value in row.standings {
            if self.is_looked_at(within, value.at)? {
                values.push(value);
            }
        }
        self.in_order(values)
    }

    fn in_order(&mut self, values: Vec<StandingValue>) -> Result<Vec<StandingValue>> {
        let mut sorted: Vec<StandingValue> = Vec::with_capacity(values.len());
        for value in values {
            let mut place = sorted.len();
            while place > 0 {
                let before = &sorted[place - 1];
                if self.rank((before.at, before.count), (value.at, value.count))? != Ordering::Greater {
                    break;
                }
                place -= 1;
            }
            sorted.insert(place, value);
        }
        Ok(sorted)
    }

    fn is_admission(&self, at: ValueRef) -> bool {
        matches!(self.admission(at), Ok(Some(_)))
    }

    /// Whether a value of what somebody is counts: its author could give it, and was not cut.
    pub(crate) fn counts(&mut self, at: ValueRef, within: Within) -> Result<bool> {
        if within == Within::All
            && let Some(known) = self.verdicts.get(&at)
        {
            return Ok(*known);
        }
        let counts = self.counts_here(at, within)?;
        if within == Within::All {
            self.verdicts.insert(at, counts);
        }
        Ok(counts)
    }

    fn counts_here(&mut self, at: ValueRef, within: Within) -> Result<bool> {
        let head: Head = decode(&self.change(at)?.head)?;
        let device = self.branch_of(at.dot)?.device;
        let subject = match head.kind {
            ChangeKind::Genesis { .. } => return Ok(true),
            // Whoever admits stands behind the admission alone: who is admitted was nothing before.
            ChangeKind::Grant { .. } => None,
            ChangeKind::Device { ticket, user, proof, .. } => {
                return self.counts_as_admitted(&device, at.dot, (&ticket, &user, proof.is_some()), within);
            }
            ChangeKind::Standing { role: Some(Role::Owner), .. } => return self.counts_as_transfer(at, within),
            ChangeKind::Standing { user, .. } => Some(user),
            ChangeKind::Expel { device: expelled } => {
                let Some(row) = self.device_row(&expelled) else { return Ok(false) };
                let (author, _) = self.author(&device, at.dot)?;
                if author == row.user {
                    return Ok((expelled == device || self.is_older(&device, &expelled)?)
                        && self.is_at_least(&device, author, at.dot, Role::Keeper, within)?);
                }
                Some(row.user)
            }
            _ => return Err(Error::damaged("a standing")),
        };
        let (author, _) = self.author(&device, at.dot)?;
        if let Some(subject) = subject {
            // Whoever steps down needs nobody above them.
            let steps_down = subject == author && matches!(head.kind, ChangeKind::Standing { .. });
            if !steps_down && !self.is_senior(&author, &subject, at.dot, within)? {
                return Ok(false);
            }
        }
        self.is_at_least(&device, author, at.dot, Role::Admin, within)
    }

    /// Whether one user may, in this commit, change what another is: they are the owner, or became an admin before the other
    /// did, if that one ever did.
    fn is_senior(&mut self, user: &UserId, other: &UserId, dot: Dot, within: Within) -> Result<bool> {
        if let Some(owner) = self.owner(within, Some(dot))?
            && (owner == *user || owner == *other)
        {
            return Ok(owner == *user);
        }
        let made_admin = |value: &StandingValue| value.role.is_some_and(|role| role >= Role::Admin);
        let mine = self.values_on_user(user, within)?;
        let theirs = self.values_on_user(other, within)?;
        let mut theirs = theirs.into_iter().filter(made_admin).peekable();
        for value in mine.into_iter().filter(made_admin) {
            while let Some(other) = theirs.peek().cloned() {
                if self.rank((other.at, other.count), (value.at, value.count))? != Ordering::Less {
                    break;
                }
                theirs.next();
                if self.counts(other.at, within)? {
                    return Ok(false);
                }
            }
            if self.counts(value.at, within)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a device was admitted before another.
    pub(crate) fn is_older(&mut self, device: &DeviceId, other: &DeviceId) -> Result<bool> {
        let mut first = [None, None];
        for (first, device) in first.iter_mut().zip([device, other]) {
            for at in self.device_row(device).map(|row| row.granted).unwrap_or_default() {
                let new = (at, self.count_of(at)?);
                let least = match *first {
                    Some(old) => self.rank(new, old)? == Ordering::Less,
                    None => true,
                };
                if least {
                    *first = Some(new);
                }
            }
        }
        match first {
            [Some(one), Some(other)] => Ok(self.rank(one, other)? == Ordering::Less),
            _ => Ok(false),
        }
    }

    /// Whether a value superseded another, by way of whatever came between.
    pub(crate) fn reaches(&mut self, newer: ValueRef, older: ValueRef) -> Result<bool> {
        let mut todo = vec![newer];
        let mut seen = BTreeSet::new();
        while let Some(at) = todo.pop() {
            for before in self.superseded_by(at)? {
                if before == older || seen.len() >= MOST_STEPS {
                    return Ok(true);
                }
                if seen.insert(before) && self.value_covers(before, older)? {
                    todo.push(before);
                }
            }
        }
        Ok(false)
    }

    /// Users of whom something was made since they were admitted, with what the running call made of them.
    pub(crate) fn changed_users(&self) -> BTreeSet<UserId> {
        let fresh = self.overlay.members.iter().filter_map(|row| match row {
            MemberRow::User(row) if !row.standings.is_empty() => Some(row.public.id()),
            _ => None,
        });
        fresh.chain(self.members.changed_users()).collect()
    }

    /// Devices that are removed, or that a removal names; perhaps others, by what the running call made of them.
    pub(crate) fn cut_devices(&self) -> BTreeSet<DeviceId> {
        let fresh = self.overlay.members.iter().filter_map(|row| match row {
            MemberRow::Device(row) if row.is_cut() => Some(row.public.id),
            _ => None,
        });
        fresh.chain(self.members.cut_devices()).collect()
    }

    pub(crate) fn device_row(&self, device: &DeviceId) -> Option<DeviceRow> {
        self.device_now(device).cloned()
    }

    pub(crate) fn device_now(&self, device: &DeviceId) -> Option<&DeviceRow> {
        let fresh = self.overlay.members.iter().rev().find_map(|row| match row {
            MemberRow::Device(row) if row.public.id == *device => Some(row),
            _ => None,
        });
        fresh.or_else(|| self.members.devices.get(device))
    }

    pub(crate) fn user_now(&self, user: &UserId) -> Option<&UserRow> {
        let fresh = self.overlay.members.iter().rev().find_map(|row| match row {
            MemberRow::User(row) if row.public.id() == *user => Some(row),
            _ => None,
        });
        fresh.or_else(|| self.members.users.get(user))
    }

    /// Why the author of a commit may not make a change of what somebody is, by what they had seen; judged the same by all.
    pub(crate) fn forbids_standing(
        &mut self,
        author: &UserId,
        device: &DeviceId,
        dot: Dot,
        kind: &ChangeKind,
    ) -> Result<bool> {
        let within = Within::Seen(dot);
        let subject = match kind {
            ChangeKind::Standing { user, role } => {
                if *role == Some(Role::Owner) {
                    return Ok(user == author || !self.is_owner(author, within)?);
                }
                if user == author && role.is_none_or(|role| role < Role::Admin) {
                    return Ok(false);
                }
                *user
            }
            ChangeKind::Expel { device: expelled } => {
                let Some(row) = self.device_row(expelled) else { return Ok(true) };
                if row.user == *author && (expelled == device || self.is_older(device, expelled)?) {
                    return Ok(false);
                }
                row.user
            }
            _ => return Ok(false),
        };
        let admin = self.is_at_least(device, *author, dot, Role::Admin, within)?;
        Ok(!admin || !self.is_senior(author, &subject, dot, within)?)
    }

    pub(crate) fn apply_standing(&mut self, at: ValueRef, count: u64, user: &UserId, role: Option<Role>) -> Result<()> {
        let Some(mut row) = self.user_row(user) else { return rule("a role for somebody unknown") };
        if !self.saw_any_admission(at, user)? {
            return rule("a role for somebody its author had not seen");
        }
        row.standings.push(StandingValue { at, count, role });
        self.overlay.members.push(MemberRow::User(row));
        self.verdicts.clear();
        Ok(())
    }

    pub(crate) fn apply_expel(&mut self, at: ValueRef, count: u64, device: &DeviceId) -> Result<()> {
        let Some(mut row) = self.device_row(device) else { return rule("a removal of an unknown device") };
        let mut seen = false;
        for admitted in &row.granted {
            seen = seen || self.covers(at.dot, admitted.dot)?;
        }
        if !seen {
            return rule("a removal of a device its author had not seen");
        }
        row.expelled.push(StandingValue { at, count, role: None });
        self.overlay.members.push(MemberRow::Device(row));
        self.verdicts.clear();
        Ok(())
    }

    fn saw_any_admission(&mut self, at: ValueRef, user: &UserId) -> Result<bool> {
        for value in self.values_on_user(user, Within::Seen(at.dot))? {
            if self.is_admission(value.at) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings in line what the rows of all members say they are now.
    pub(crate) fn refresh_standings(&mut self) -> Result<()> {
        let users = self.members.users.keys().copied().collect();
        let devices = self.members.devices.keys().copied().collect();
        self.refresh_standings_of(users, devices)
    }

    /// The same of some.
    pub(crate) fn refresh_standings_of(&mut self, users: Vec<UserId>, devices: Vec<DeviceId>) -> Result<()> {
        for user in users {
            let Some(mut row) = self.user_row(&user) else { continue };
            let now = self.role_now(&user)?;
            let (role, removed) = (now.unwrap_or(row.role), now.is_none());
            if (role, removed) != (row.role, row.removed) {
                (row.role, row.removed) = (role, removed);
                self.overlay.members.push(MemberRow::User(row));
            }
        }
        for device in devices {
            let Some(mut row) = self.device_row(&device) else { continue };
            let mut admitted = false;
            for at in row.granted.clone() {
                admitted = admitted || self.counts(at, Within::All)?;
            }
            let mut removed = !admitted;
            for value in row.expelled.clone() {
                removed = removed || self.counts(value.at, Within::All)?;
            }
            if removed != row.removed {
                row.removed = removed;
                self.overlay.members.push(MemberRow::Device(row));
            }
        }
        Ok(())
    }

    /// What a user is to whoever knows all that is known here.
    fn role_now(&mut self, user: &UserId) -> Result<Option<Role>> {
        let mut counting = Vec::new();
        let mut values = self.values_on_user(user, Within::All)?;
        self.drop_settled(&mut values, Within::All)?;
        for value in values {
            if self.counts(value.at, Within::All)? {
                counting.push(value);
            }
        }
        let (mut admitted, mut role) = (false, None);
        for (n, value) in counting.iter().enumerate() {
            let mut outlived = false;
            for later in &counting[n + 1..] {
                outlived = outlived || !self.is_admission(later.at) && self.reaches(later.at, value.at)?;
            }
            let is_admission = self.is_admission(value.at);
            if outlived || (admitted && is_admission) {
                continue;
            }
            admitted |= is_admission;
            role = match (role, value.role) {
                (None, is) => Some(is),
                (Some(least), is) => Some(std::cmp::min(least, is)),
            };
        }
        match role.flatten() {
            // Who handed the volume over is an admin.
            Some(Role::Owner) if self.owner(Within::All, None)?.is_some_and(|owner| owner != *user) => {
                Ok(Some(Role::Admin))
            }
            role => Ok(role),
        }
    }

    /// The arrival of the commit by which a device was removed; `None` for one that wasn't.
    pub(crate) fn removed_at(&mut self, device: &DeviceId) -> Option<u64> {
        let row = self.members.devices.get(device).cloned()?;
        if self.members.user_of(device).is_some() {
            return None;
        }
        let user = self.members.users.get(&row.user).cloned();
        let standings = user.into_iter().flat_map(|user| user.standings);
        let removals = row.expelled.into_iter().chain(standings.filter(|value| value.role.is_none()));
        let arrival = |value: StandingValue| match self.is_pending(value.at.dot) {
            true => Some(self.next_arrival),
            false => self.commit_row(value.at.dot).ok().flatten().map(|row| row.arrival),
        };
        Some(removals.filter_map(arrival).max().unwrap_or(0))
    }

    /// The values of what a user is that a change of it takes the place of: all that are known.
    fn live_standings(&mut self, user: &UserId) -> Result<Vec<ValueRef>> {
        let values = self.values_on_user(user, Within::All)?;
        let mut live = Vec::new();
        for value in &values {
            let mut outlived = false;
            for later in values.iter().filter(|later| later.at != value.at) {
                outlived = outlived || !self.is_admission(later.at) && self.reaches(later.at, value.at)?;
            }
            if !outlived {
                live.push(value.at);
            }
        }
        Ok(live)
    }

    /// Others' devices that a change removes, or one's own other ones.
    fn removed_by(&self, kind: &ChangeKind) -> BTreeSet<DeviceId> {
        match kind {
            ChangeKind::Standing { user, role: None } if *user != self.user.id() => {
                self.members.devices_of(user).map(|row| row.public.id).collect()
            }
            ChangeKind::Expel { device } if *device != self.device.id() => BTreeSet::from([*device]),
            _ => BTreeSet::new(),
        }
    }

    fn change_standing(&mut self, kind: ChangeKind) -> Result<()> {
        let (me, device, dot) = (self.user.id(), self.device.id(), self.pending_dot());
        if self.members.role_of(&device).is_none() {
            return Err(Error::Refused("this device does not belong to the volume any more".to_owned()));
        }
        let gone = match &kind {
            ChangeKind::Standing { user, role } => {
                let hands_over = *role == Some(Role::Owner);
                if hands_over && !self.is_owner(&me, Within::All)? {
                    return Err(Error::Refused("only the owner hands the volume over".to_owned()));
                }
                let Some(row) = self.members.users.get(user) else { return Err(Error::NotFound) };
                if row.role == Role::Owner && !row.removed {
                    return Err(Error::Refused(format!("{} is the volume's owner", row.name)));
                }
                if !row.removed && *role == Some(Role::Keeper) {
                    return Err(Error::Refused(format!(
                        "{} would keep the keys they have: remove them, and invite them as a keeper",
                        row.name
                    )));
                }
                if !row.removed && row.role == Role::Keeper && role.is_some() {
                    return Err(Error::Refused(format!(
                        "{} is a keeper, and what is kept there opens with no key: invite them as another user",
                        row.name
                    )));
                }
                if row.removed && role.is_some() {
                    return Err(Error::Refused(format!("{} was removed: invite them anew", row.name)));
                }
                self.live_standings(user)?
            }
            _ => Vec::new(),
        };
        if self.forbids_standing(&me, &device, dot, &kind)? {
            return Err(Error::Refused("only the owner, and admins who became it before, may do that".to_owned()));
        }
        self.emit::<MemberBody>(kind, &gone, None).map(|_| ())
    }
}

impl Volume {
    /// Makes a user something else: a reader, writer or admin. Who keeps without reading stays so, and nobody becomes that:
    /// what is stored on a device is made out of what its keys open.
    ///
    /// # Errors
    /// [`Error::NotFound`] for nobody, [`Error::Refused`] when this device's user may not; or the disk failed.
    pub fn set_role(&self, user: &UserId, role: Role) -> Result<()> {
        if role == Role::Owner {
            return Err(Error::Refused("the volume is handed over by its owner".to_owned()));
        }
        self.change_members(ChangeKind::Standing { user: *user, role: Some(role) })
    }

    /// Hands the volume over: that user becomes its owner, and this one an admin.
    ///
    /// # Errors
    /// As [`Self::set_role`].
    pub fn transfer_ownership(&self, user: &UserId) -> Result<()> {
        self.change_members(ChangeKind::Standing { user: *user, role: Some(Role::Owner) })
    }

    /// Removes a user with all their devices. What they did and nobody had seen yet is taken back and kept aside.
    ///
    /// # Errors
    /// As [`Self::set_role`].
    pub fn remove_user(&self, user: &UserId) -> Result<()> {
        self.change_members(ChangeKind::Standing { user: *user, role: None })
    }

    /// Removes one device.
    ///
    /// # Errors
    /// As [`Self::set_role`].
    pub fn remove_device(&self, device: &DeviceId) -> Result<()> {
        self.change_members(ChangeKind::Expel { device: *device })
    }

    fn change_members(&self, kind: ChangeKind) -> Result<()> {
        // What is pending goes first: it had not seen this.
        self.commit_now()?;
        self.local_commit(|core| {
            // What who is removed invited to goes with them.
            core.withdraw_invitations_of(&core.removed_by(&kind))?;
            core.change_standing(kind)?;
            core.settle_members()?;
            core.renew_epoch_if_due()
        })?;
        self.wake_sessions();
        Ok(())
    }
}
