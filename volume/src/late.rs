//! Changes that are cut by a removal which neither knew of the other: taken back, kept aside, and put back should the
//! removal itself turn out not to count.
//!
//! Of a register the live values are those valid ones that no valid value reaches by way of what it superseded, whether
//! that is valid or not. So a valid value that superseded a late one stands for what that one superseded too, and nothing
//! old comes back beside it. What a late commit bears stays as a node without a name: its first places count as removals.
//!
//! Invariant: the state is what it would be had every commit arrived after all that cuts it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crypto::{DeviceId, Label, UserId};

use crate::{
    Changed,
    agreed::SettingValue,
    apply::{content_value, decode},
    commit::{ChangeKind, ContentBody, Head, MetaBody, RawChange, SettingBody, XattrBody},
    core::Core,
    error::{Error, Result},
    id::{LinkId, NodeId},
    member::Role,
    node::{Ino, NodeKind},
    own_devices::is_of_own_devices,
    row::{Meta, Node, Place, Value, Xattr, XattrValue},
    settings,
    standing::Within,
    store::{Batch, Space, prefix_end},
    tree::next_tag,
    version::{BranchNo, Dot, ValueRef},
};

/// Rows of late commits in [`Space::Meta`].
const LATE: &[u8] = b"late/";
/// Rows of commits that were stored, but of which it isn't stored yet what they cut.
const UNJUDGED: &[u8] = b"unjudged/";
/// Access values that cut each other are followed so far: whoever means harm makes long chains of them.
const MOST_ROUNDS: usize = 16;
/// Rows of conflicts that were settled by taking a value away, by inode: `settle/ ‖ inode ‖ value`.
const SETTLED: &[u8] = b"settle/";

/// The commits that are late by what is known here.
pub(crate) type Late = BTreeSet<Dot>;

/// The first places of what a commit bears.
pub(crate) type FirstPlaces = BTreeMap<NodeId, Vec<(ValueRef, Head)>>;

/// What takes the place of a register's live values.
struct Live {
    values: Vec<ValueRef>,
    /// Void values that superseded nothing: first places of links.
    firsts: Vec<ValueRef>,
}

impl Core {
    fn load_late(&mut self) -> Result<()> {
        self.late.clear();
        self.late_values.clear();
        (self.late_access, self.first_places) = (None, None);
        for (key, _) in self.store.scan(Space::Meta, LATE, &prefix_end(LATE), usize::MAX)? {
            let key = key.get(LATE.len()..).unwrap_or_default();
            match (ValueRef::from_key(key), Dot::from_key(key)) {
                (Some(at), _) => drop(self.late_values.insert(at)),
                (None, Some(dot)) => drop(self.late.insert(dot)),
                _ => return Err(Error::damaged("what is late")),
            }
        }
        Ok(())
    }

    /// Notes, with a commit that is being stored, that it may cut something.
    pub(crate) fn note_unjudged(&self, batch: &mut Batch, dot: Dot) {
        self.store.put(batch, Space::Meta, [UNJUDGED, &dot.key()[..]].concat(), &[]);
    }

    /// Notes, with all that a commit cuts, that this is it.
    pub(crate) fn note_judged(&mut self, dot: Dot) {
        self.overlay.batch.remove(Space::Meta, [UNJUDGED, &dot.key()[..]].concat());
    }

    /// Begins from what is stored, and goes on where the process or the disk failed before all was stored that a commit
    /// cuts.
    pub(crate) fn judge_anew(&mut self) -> Result<()> {
        self.load_late()?;
        self.settle_members()?;
        self.judge_all()?;
        for (key, _) in self.store.scan(Space::Meta, UNJUDGED, &prefix_end(UNJUDGED), usize::MAX)? {
            let dot = key.get(UNJUDGED.len()..).and_then(Dot::from_key);
            let dot = dot.ok_or_else(|| Error::damaged("what was not judged yet"))?;
            self.judge_by_nodes(dot)?;
            self.note_judged(dot);
        }
        self.settle_rights()?;
        self.settle(Batch::new())?;
        self.has_unjudged = false;
        Ok(())
    }

    /// Whether a change is cut by a removal, or by a right taken away, as far as is known here now.
    pub(crate) fn is_late_value(&self, at: &ValueRef) -> bool {
        self.late.contains(&at.dot) || self.late_values.contains(at)
    }

    /// Whether a value counts for nothing, as far as is known here now.
    pub(crate) fn is_void(&mut self, at: ValueRef) -> Result<bool> {
        Ok(!self.is_pending(at.dot) && (self.is_late_value(&at) || self.commit_info(at.dot)?.void))
    }

    /// Values that are replaced, and what those of them replaced that are late.
    pub(crate) fn with_late(&mut self, gone: &[ValueRef]) -> Result<Vec<ValueRef>> {
        let mut all: BTreeSet<ValueRef> = gone.iter().copied().collect();
        let mut todo: Vec<ValueRef> = gone.iter().copied().filter(|at| self.is_late_value(at)).collect();
        while let Some(at) = todo.pop() {
            for before in self.superseded_by(at)? {
                if all.insert(before) && self.is_void(before)? {
                    todo.push(before);
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Judges a commit that came. To be called before anything can see it.
    pub(crate) fn judge(&mut self, dot: Dot) -> Result<()> {
        if self.members.ever_changed() && self.is_late(dot)? {
            self.set_late(dot, true)?;
            self.reconsider_commit(dot)?;
        }
        Ok(())
    }

    /// Judges all commits again, after what somebody is changed.
    pub(crate) fn judge_all(&mut self) -> Result<()> {
        if !self.members.ever_changed() {
            return Ok(());
        }
        let mut now = Late::new();
        for dot in self.suspects()? {
            if self.is_late(dot)? {
                now.insert(dot);
            }
        }
        let changed: Vec<Dot> = self.late.symmetric_difference(&now).copied().collect();
        for &dot in &changed {
            self.set_late(dot, now.contains(&dot))?;
        }
        // All are known to be so before any is looked at: values of one register may be in several.
        changed.iter().try_for_each(|dot| self.reconsider_commit(*dot))?;
        if changed.is_empty() {
            return Ok(());
        }
        self.put_back_values()?;
        for dot in changed {
            match self.late.contains(&dot) {
                true => self.judge_within_all(dot)?,
                false => self.judge_by_nodes(dot)?,
            }
        }
        Ok(())
    }

    /// Puts back what was cut by rights that were taken away by what is late now, or is so no longer. Tells which access values
    /// count again.
    fn put_back_values(&mut self) -> Result<Vec<Dot>> {
        let mut rights = Vec::new();
        loop {
            let before = self.late_values.len();
            for at in self.late_values.clone() {
                let raw = self.change(at)?;
                let head: Head = decode(&raw.head)?;
                if !self.is_denied(at, &head)? {
                    self.set_late_value(at, false)?;
                    self.reconsider(at, &raw)?;
                    rights.extend(matches!(head.kind, ChangeKind::Access { .. }).then_some(at.dot));
                }
            }
            // What was made where nobody might counts again with that.
            if self.late_values.len() == before {
                return Ok(rights);
            }
        }
    }

    /// After access values were cut: what they had cut counts again, and those among it cut in turn.
    pub(crate) fn settle_rights(&mut self) -> Result<()> {
        for _ in 0..MOST_ROUNDS {
            if !std::mem::take(&mut self.rights_turned) {
                break;
            }
            for dot in self.put_back_values()? {
                self.judge_by_nodes(dot)?;
            }
        }
        Ok(())
    }

    /// Whether somebody made something that the author of a commit had not seen: then rights may have crossed.
    pub(crate) fn is_apart(&mut self, dot: Dot) -> Result<bool> {
        for other in self.frontier.iter().copied().collect::<Vec<_>>() {
            if !self.covers(dot, other)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Judges the changes of a commit by rights that were taken away apart from it, and those of others by what this one
    /// takes away.
    pub(crate) fn judge_by_nodes(&mut self, dot: Dot) -> Result<()> {
        if self.late.contains(&dot) || self.commit_info(dot)?.void {
            return Ok(());
        }
        let changes = self.changes_in(dot)?;
        let mut takes_names = false;
        for (at, raw) in &changes {
            if self.turns_late(*at)? {
                self.reconsider(*at, raw)?;
            }
        }
        for (at, raw) in &changes {
            let ChangeKind::Access { node, .. } = decode::<Head>(&raw.head)?.kind else { continue };
            let Some(ino) = self.ino_of_node(&node)?.filter(|_| !self.is_late_value(at)) else { continue };
            takes_names |= self.with_node(ino, |n| n.kind == NodeKind::Directory)?;
            for value in self.values_since(ino, Some(dot))? {
                if self.turns_late(value)? {
                    let raw = self.change(value)?;
                    self.reconsider(value, &raw)?;
                }
            }
        }
        if takes_names { self.judge_names_apart_from(dot) } else { Ok(()) }
    }

    /// Judges the places and removals that the author of a commit had not seen.
    fn judge_names_apart_from(&mut self, dot: Dot) -> Result<()> {
        let seen = self.vector(dot)?;
        for no in (0..self.branches.len()).map(|no| BranchNo(no as u32)) {
            let first = self.branch(no).forked_from.map_or(1, |fork| fork.seq + 1);
            for seq in first.max(seen.get(no) + 1)..=self.newest_of(no) {
                let other = Dot { branch: no, seq };
                if self.late.contains(&other) || self.commit_info(other)?.void {
                    continue;
                }
                for (at, raw) in self.changes_in(other)? {
                    let kind = decode::<Head>(&raw.head)?.kind;
                    let names = matches!(kind, ChangeKind::Place { .. } | ChangeKind::Removal { .. });
                    if names && self.turns_late(at)? {
                        self.reconsider(at, &raw)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The values of a node, but those of its links, that the author of a commit had not seen: also those that others replaced
    /// or settled since. Whether an access value counts is asked of those that were replaced, too, and what is kept aside lists
    /// what a settled one replaced. Without a commit all values.
    fn values_since(&mut self, ino: Ino, dot: Option<Dot>) -> Result<BTreeSet<ValueRef>> {
        let mut todo = self.live_values(ino)?;
        todo.extend(self.settles(ino)?);
        let mut found = BTreeSet::new();
        while let Some(at) = todo.pop() {
            // Who had seen it had seen what it superseded.
            let seen = dot.map_or(Ok(false), |dot| self.covers(dot, at.dot))?;
            if !seen && found.insert(at) {
                todo.extend(self.superseded_by(at)?);
            }
        }
        Ok(found)
    }

    /// The live values of a node, but those of its links.
    fn live_values(&mut self, ino: Ino) -> Result<Vec<ValueRef>> {
        let node = self.node(ino)?;
        let mut found: Vec<ValueRef> = node.content.iter().map(|v| v.at).collect();
        found.extend(node.meta.iter().map(|v| v.at));
        found.extend(node.access.iter().map(|v| v.at));
        for shows in [true, false] {
            self.each_item::<Xattr>(ino, &node, shows, |xattr| {
                found.extend(xattr.values.iter().map(|v| v.at));
                true
            })?;
        }
        Ok(found)
    }

    /// Whether a change that counted is cut by a right taken away apart from it; then it is noted as late.
    fn turns_late(&mut self, at: ValueRef) -> Result<bool> {
        if self.is_pending(at.dot) || self.is_void(at)? {
            return Ok(false);
        }
        let head: Head = decode(&self.change(at)?.head)?;
        if !self.is_denied(at, &head)? {
            return Ok(false);
        }
        self.set_late_value(at, true)?;
        self.rights_turned |= matches!(head.kind, ChangeKind::Access { .. });
        if let ChangeKind::Place { link: None, child, .. } = &head.kind
            && let Some(ino) = self.ino_of_node(child)?
        {
            stacker::maybe_grow(256 << 10, 4 << 20, || self.judge_within(ino))?;
        }
        Ok(true)
    }

    /// Whether a right taken away cuts a change: of what it changes, or of where what it changes was made by the same user.
    fn is_denied(&mut self, at: ValueRef, head: &Head) -> Result<bool> {
        let device = self.branch_of(at.dot)?.device;
        let Ok((user, _)) = self.author(&device, at.dot) else { return Ok(false) };
        if self.node_denies(at, head, &user, None)? {
            return Ok(true);
        }
        let Some(ino) = self.made_in(&head.kind)? else { return Ok(false) };
        self.made_late_by(ino, &user, at.dot)
    }

    /// The node that a change is within: what becomes of it when the making of that node is cut hangs on who made both.
    fn made_in(&mut self, kind: &ChangeKind) -> Result<Option<Ino>> {
        match kind {
            ChangeKind::Content { node, .. }
            | ChangeKind::Meta { node, .. }
            | ChangeKind::Xattr { node, .. }
            | ChangeKind::Access { node, .. }
            | ChangeKind::Settle { node }
            | ChangeKind::Place { parent: node, .. } => self.ino_of_node(node),
            _ => Ok(None),
        }
    }

    /// Whether this user made a node in a place where they might not, by rights taken away apart from it, and the author of
    /// the commit `knows` did not know that: who did goes on with what they know to be cut.
    fn made_late_by(&mut self, ino: Ino, user: &UserId, knows: Dot) -> Result<bool> {
        if self.late_values.is_empty() && self.late.is_empty() {
            return Ok(false);
        }
        for birth in self.births_by(ino, user)? {
            if self.late.contains(&birth.dot) && !self.was_late_to(birth.dot, knows)? {
                return Ok(true);
            }
            let beside = ValueRef { dot: birth.dot, index: 0 }..=ValueRef { dot: birth.dot, index: u32::MAX };
            if self.late_values.range(beside).next().is_none() {
                continue;
            }
            for (at, head) in self.first_places(ino, birth.dot)? {
                if self.late_values.contains(&at) && !self.was_denied_to(at, &head, user, knows)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The first places of a node in the commit that bore it. (Those of one commit are asked for one after the other.)
    fn first_places(&mut self, ino: Ino, born: Dot) -> Result<Vec<(ValueRef, Head)>> {
        let id = self.with_node(ino, |n| n.id)?;
        if self.first_places.as_ref().is_none_or(|(of, _)| *of != born) {
            let mut found = FirstPlaces::new();
            for (at, raw) in self.changes_in(born)? {
                let head: Head = decode(&raw.head)?;
                if let ChangeKind::Place { link: None, child, .. } = head.kind {
                    found.entry(child).or_default().push((at, head));
                }
            }
            self.first_places = Some((born, found));
        }
        Ok(self.first_places.as_ref().and_then(|(_, found)| found.get(&id)).cloned().unwrap_or_default())
    }

    /// Whether the author of a commit knew that a right taken away cut a first place by this user, or one above it. (For everybody
    /// who has heard of as much it is cut then, whatever else they know.)
    fn was_denied_to(&mut self, at: ValueRef, head: &Head, user: &UserId, knows: Dot) -> Result<bool> {
        let (mut todo, mut seen) = (vec![(at, head.clone())], BTreeSet::new());
        while let Some((at, head)) = todo.pop() {
            if self.node_denies(at, &head, user, Some(knows))? {
                return Ok(true);
            }
            // (Who means harm puts directories into each other as they are made.)
            let Some(ino) = self.made_in(&head.kind)?.filter(|ino| seen.insert(*ino)) else { continue };
            for birth in self.births_by(ino, user)? {
                if self.was_late_to(birth.dot, knows)? {
                    return Ok(true);
                }
                todo.extend(self.first_places(ino, birth.dot)?);
            }
        }
        Ok(false)
    }

    /// The births of a node that are by this user.
    fn births_by(&mut self, ino: Ino, user: &UserId) -> Result<Vec<ValueRef>> {
        let mut found = Vec::new();
        for birth in self.with_node(ino, |n| n.born.clone())? {
            let device = self.branch_of(birth.dot)?.device;
            if self.author(&device, birth.dot).is_ok_and(|(by, _)| by == *user) {
                found.push(birth);
            }
        }
        Ok(found)
    }

    /// Judges again what is in all that a commit made.
    fn judge_within_all(&mut self, dot: Dot) -> Result<()> {
        for (_, raw) in self.changes_in(dot)? {
            if let ChangeKind::Place { link: None, child, .. } = decode::<Head>(&raw.head)?.kind
                && let Some(ino) = self.ino_of_node(&child)?
            {
                self.judge_within(ino)?;
            }
        }
        Ok(())
    }

    /// Judges again what is in a node, and in what lies below it, after its making was cut.
    fn judge_within(&mut self, ino: Ino) -> Result<()> {
        let mut values: Vec<ValueRef> = self.values_since(ino, None)?.into_iter().collect();
        if self.with_node(ino, |n| n.kind)? == NodeKind::Directory {
            let home = self.canonical(ino)?;
            let mut from = [0; 16];
            loop {
                let entries = self.scan_entries(home, &from, 256)?;
                let Some((last, _)) = entries.last() else { break };
                let claims = entries.iter().flat_map(|(_, entry)| &entry.claims);
                values.extend(claims.filter(|claim| claim.parent == ino).map(|claim| claim.at));
                match next_tag(*last) {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        for value in values {
            if self.turns_late(value)? {
                let raw = self.change(value)?;
                self.reconsider(value, &raw)?;
            }
        }
        Ok(())
    }

    fn set_late_value(&mut self, at: ValueRef, late: bool) -> Result<()> {
        let key = [LATE, &at.key()[..]].concat();
        let device = self.branch_of(at.dot)?.device;
        self.late_access = None;
        self.tell_taken_back(&device, "made apart from the loss of the right to it", late);
        if late {
            log::warn!("a change of device {} was made apart from a right taken away: taken back", device.short());
            self.store.put(&mut self.overlay.batch, Space::Meta, key, &[]);
            self.late_values.insert(at);
        } else {
            self.overlay.batch.remove(Space::Meta, key);
            self.late_values.remove(&at);
        }
        Ok(())
    }

    /// Whether the author of one commit knew that another was late.
    pub(crate) fn was_late_to(&mut self, dot: Dot, to: Dot) -> Result<bool> {
        if !self.members.ever_changed() || self.is_pending(dot) || dot == to {
            return Ok(false);
        }
        let device = self.branch_of(dot)?.device;
        let Ok((user, _)) = self.author(&device, dot) else { return Ok(false) };
        Ok(!self.is_at_least(&device, user, dot, Role::Writer, Within::Seen(to))?)
    }

    fn set_late(&mut self, dot: Dot, late: bool) -> Result<()> {
        let key = [LATE, &dot.key()[..]].concat();
        let device = self.branch_of(dot)?.device;
        self.snapshots = None;
        self.late_access = None;
        self.tell_taken_back(&device, "made apart from their removal", late);
        if late {
            log::warn!("commit {dot} of device {} was made apart from its removal: taken back", device.short());
            self.store.put(&mut self.overlay.batch, Space::Meta, key, &[]);
            self.late.insert(dot);
            // It is cut as a whole: what cut it change by change doesn't matter as long as it is, in whatever order they came.
            let within = ValueRef { dot, index: 0 }..=ValueRef { dot, index: u32::MAX };
            for at in self.late_values.range(within).copied().collect::<Vec<_>>() {
                self.set_late_value(at, false)?;
            }
        } else {
            log::warn!("commit {dot} of device {} counts again", device.short());
            self.overlay.batch.remove(Space::Meta, key);
            self.late.remove(&dot);
        }
        Ok(())
    }

    /// The commits that may be late: of all devices from which something was taken, those that this had not seen.
    fn suspects(&mut self) -> Result<Vec<Dot>> {
        // Of all others the one admission counts, or they would be removed.
        let mut devices: BTreeSet<DeviceId> = self.cut_devices();
        devices.extend(self.members.admitted_twice());
        for user in self.changed_users() {
            devices.extend(self.members.devices_of(&user).map(|row| row.public.id));
        }
        let mut found = Vec::new();
        for device in devices {
            let Some(row) = self.device_row(&device) else { continue };
            let user = self.user_row(&row.user);
            let mut cuts: Vec<ValueRef> = row.expelled.iter().map(|value| value.at).collect();
            cuts.extend(user.iter().flat_map(|user| &user.standings).map(|value| value.at));
            let mut admitted = true;
            for at in row.granted {
                admitted = admitted && self.counts(at, Within::All)?;
            }
            if cuts.is_empty() && admitted {
                continue;
            }
            for no in self.branches_by(&device).collect::<Vec<_>>() {
                let first = self.branch(no).forked_from.map_or(1, |fork| fork.seq + 1);
                let last = self.newest_of(no);
                let mut from = if admitted { last + 1 } else { first };
                for cut in &cuts {
                    let seen = if self.is_pending(cut.dot) { last } else { self.vector(cut.dot)?.get(no) };
                    from = from.min(seen + 1);
                }
                found.extend((from.max(first)..=last).map(|seq| Dot { branch: no, seq }));
            }
        }
        Ok(found)
    }

    /// The number of the newest commit of a branch, with the one that is being taken in.
    fn newest_of(&self, no: BranchNo) -> u64 {
        let entering = self.taking_in.filter(|dot| dot.branch == no).map_or(0, |dot| dot.seq);
        self.branch(no).tip.max(entering)
    }

    fn is_late(&mut self, dot: Dot) -> Result<bool> {
        if self.commit_row(dot)?.is_none_or(|row| row.void) {
            return Ok(false);
        }
        let device = self.branch_of(dot)?.device;
        let Ok((user, _)) = self.author(&device, dot) else { return Ok(false) };
        if self.is_at_least(&device, user, dot, Role::Writer, Within::All)? {
            return Ok(false);
        }
        // Readers have their own devices in hand.
        for (_, raw) in self.changes_in(dot)? {
            if !is_of_own_devices(&decode::<Head>(&raw.head)?.kind) {
                return Ok(true);
            }
        }
        Ok(!self.is_at_least(&device, user, dot, Role::Reader, Within::All)?)
    }

    /// The contents that late commits name, by root and number of blocks: somebody may want them yet.
    pub(crate) fn late_contents(&self) -> Result<Vec<(crate::content::BlockHash, u64)>> {
        let mut found = Vec::new();
        let values = self.late_values.iter().map(|at| self.change(*at).map(|raw| (*at, (*raw).clone())));
        let commits = self.late.iter().map(|dot| self.changes_in(*dot));
        for changes in commits.chain([values.collect()]) {
            for (_, raw) in changes? {
                if let ChangeKind::Content { root, blocks, .. } = decode::<Head>(&raw.head)?.kind
                    && !root.is_hole()
                {
                    found.push((root, blocks));
                }
            }
        }
        Ok(found)
    }

    /// Brings the registers of all changes of a commit in line with whether it counts.
    fn reconsider_commit(&mut self, dot: Dot) -> Result<()> {
        for (at, raw) in self.changes_in(dot)? {
            self.reconsider(at, &raw)?;
        }
        Ok(())
    }

    /// Brings the register of a change in line with whether the change counts.
    pub(crate) fn reconsider(&mut self, at: ValueRef, raw: &RawChange) -> Result<()> {
        let head: Head = decode(&raw.head)?;
        match head.kind {
            ChangeKind::Access { node, .. }
            | ChangeKind::Meta { node, .. }
            | ChangeKind::Content { node, .. }
            | ChangeKind::Settle { node }
            | ChangeKind::Xattr { node, .. } => {
                let Some(ino) = self.ino_of_node(&node)? else { return Ok(()) };
                match head.kind {
                    ChangeKind::Access { .. } => self.reconsider_access(ino, at),
                    ChangeKind::Meta { .. } => self.reconsider_meta(ino, at),
                    ChangeKind::Xattr { tag, .. } => self.reconsider_xattr(ino, tag.as_bytes(), at),
                    _ => self.reconsider_content(ino, at),
                }
            }
            ChangeKind::Place { link, child, .. } => {
                let id = self.id_of_link(link, &child, at, raw)?;
                let Some(ino) = self.ino_of_node(&child)? else { return Ok(()) };
                self.reconsider_link(ino, &id, at)
            }
            ChangeKind::Removal { link, child, .. } => {
                let Some(ino) = self.ino_of_node(&child)? else { return Ok(()) };
                self.reconsider_link(ino, &link, at)
            }
            ChangeKind::Setting { tag, .. } => self.reconsider_setting(&tag, at),
            // What is born stays, without a name. Of members' own changes, standings are judged by themselves; snapshots
            // are looked at when they are listed.
            _ => Ok(()),
        }
    }

    /// The values of a register that count and that none of them reaches: of those that are live, one that came to count
    /// or ceased to, and what the void ones among them replaced. `beside` reach values and are none.
    fn live_without_void(&mut self, live: &[ValueRef], at: ValueRef, beside: &[ValueRef]) -> Result<Live> {
        let mut valid: BTreeSet<ValueRef> = BTreeSet::new();
        let mut firsts = Vec::new();
        let mut seen: BTreeSet<ValueRef> = live.iter().copied().chain([at]).collect();
        let mut todo: Vec<ValueRef> = seen.iter().copied().collect();
        while let Some(at) = todo.pop() {
            if !self.is_void(at)? && !self.turns_late(at)? {
                valid.insert(at);
                continue;
            }
            let before = self.superseded_by(at)?;
            if before.is_empty() {
                firsts.push(at);
            }
            todo.extend(before.into_iter().filter(|before| seen.insert(*before)));
        }
        let mut reachers: Vec<ValueRef> = valid.iter().copied().collect();
        for &settle in beside {
            if !self.is_void(settle)? {
                reachers.push(settle);
            }
        }
        let mut kept: Vec<(ValueRef, u64)> = Vec::new();
        for &at in &valid {
            let mut outlived = beside.contains(&at);
            for &other in reachers.iter().filter(|other| **other != at) {
                outlived = outlived || self.value_covers(other, at)? && self.reaches(other, at)?;
            }
            if outlived {
                continue;
            }
            let new = (at, self.count_of(at)?);
            let mut place = kept.len();
            while place > 0 && self.rank(kept[place - 1], new)?.is_gt() {
                place -= 1;
            }
            kept.insert(place, new);
        }
        firsts.sort_unstable();
        Ok(Live { values: kept.into_iter().map(|(at, _)| at).collect(), firsts })
    }

    /// The values of a register as they are to be: those that stay are kept, others are read out of their changes.
    fn values_of_register<T: Clone>(
        &mut self,
        old: &[Value<T>],
        live: &[ValueRef],
        read: impl Fn(&mut Self, ValueRef, &RawChange, Head) -> Result<Option<T>>,
    ) -> Result<Vec<Value<T>>> {
        let mut values = Vec::with_capacity(live.len());
        for &at in live {
            if let Some(kept) = old.iter().find(|value| value.at == at) {
                values.push(kept.clone());
                continue;
            }
            let raw = self.change(at)?;
            let head: Head = decode(&raw.head)?;
            let value = read(self, at, &raw, head)?;
            values.push(Value { at, count: self.count_of(at)?, value });
        }
        Ok(values)
    }

    fn reconsider_access(&mut self, ino: Ino, at: ValueRef) -> Result<()> {
        let old: Vec<ValueRef> = self.with_node(ino, |n| n.access.iter().map(|v| v.at).collect())?;
        // (What that finds to be late may change the node.)
        let live = self.live_without_void(&old, at, &[])?;
        let mut node = self.node(ino)?;
        // What is born keeps its first value, whatever becomes of who bore it.
        let live = if live.values.is_empty() { node.born.clone() } else { live.values };
        if live == old {
            return Ok(());
        }
        let (whose, before) = (node.clone(), self.let_in_by(&node));
        node.access = self.values_of_register(&node.access, &live, |core, at, _, _| core.told_access(&whose, at))?;
        self.access_changed(ino, node, before)
    }

    fn reconsider_meta(&mut self, ino: Ino, at: ValueRef) -> Result<()> {
        let old: Vec<ValueRef> = self.with_node(ino, |n| n.meta.iter().map(|v| v.at).collect())?;
        let live = self.live_without_void(&old, at, &[])?.values;
        let mut node = self.node(ino)?;
        if live == old {
            return Ok(());
        }
        let whose = node.clone();
        node.meta = self.values_of_register(&node.meta, &live, |core, at, raw, head| {
            let ChangeKind::Meta { generation, .. } = head.kind else { return Ok(None) };
            let body: Option<MetaBody> = core.opened_with(&whose, generation, at, raw)?;
            Ok(body.map(|b| Meta { mtime: b.mtime, atime: b.atime }))
        })?;
        self.set_mtime(&mut node)?;
        self.put_node(ino, node);
        self.changed(Changed::Attributes(ino));
        Ok(())
    }

    fn reconsider_xattr(&mut self, ino: Ino, tag: &[u8; 16], at: ValueRef) -> Result<()> {
        let node = self.node(ino)?;
        let Some(before) = self.item::<Xattr>(ino, &node, tag)? else { return Ok(()) };
        let old: Vec<ValueRef> = before.values.iter().map(|v| v.at).collect();
        let live = self.live_without_void(&old, at, &[])?.values;
        let mut node = self.node(ino)?;
        if live == old {
            return Ok(());
        }
        let whose = node.clone();
        let mut xattr = (*before).clone();
        xattr.values = self.values_of_register(&xattr.values, &live, |core, at, raw, head| {
            let ChangeKind::Xattr { generation, tag, .. } = head.kind else { return Ok(None) };
            let body: Option<XattrBody> = core.opened_with(&whose, generation, at, raw)?;
            let body = body.filter(|b| whose.xattr_tag(&b.name) == Some(tag));
            Ok(body.map(|b| b.value.map_or(XattrValue::Removed, XattrValue::Set)))
        })?;
        self.put_item(ino, &mut node, Some(&*before), Arc::new(xattr));
        self.put_node(ino, node);
        self.changed(Changed::Attributes(ino));
        Ok(())
    }

    fn reconsider_content(&mut self, ino: Ino, at: ValueRef) -> Result<()> {
        let old: Vec<ValueRef> = self.with_node(ino, |n| n.content.iter().map(|v| v.at).collect())?;
        let settles = self.settles(ino)?;
        let live = self.live_without_void(&old, at, &settles)?.values;
        let mut node = self.node(ino)?;
        if live == old {
            return Ok(());
        }
        let whose = node.clone();
        node.content = self.values_of_register(&node.content, &live, |core, at, raw, head| {
            let ChangeKind::Content { generation, root, blocks, .. } = head.kind else { return Ok(None) };
            let body: Option<ContentBody> = core.opened_with(&whose, generation, at, raw)?;
            if !root.is_hole() {
                core.want_again_from(at, at, root, blocks)?;
            }
            Ok(body.and_then(|body| content_value(generation, &root, blocks, body)))
        })?;
        self.set_mtime(&mut node)?;
        self.put_node(ino, node);
        self.changed(Changed::Content(ino));
        self.content_changed(ino)
    }

    fn reconsider_link(&mut self, ino: Ino, id: &LinkId, at: ValueRef) -> Result<()> {
        let node = self.node(ino)?;
        let Some(before) = self.link_of(ino, &node, id)? else { return Ok(()) };
        let old: Vec<ValueRef> = before.values.iter().map(|v| v.at).collect();
        let live = self.live_without_void(&old, at, &[])?;
        let node = self.node(ino)?;
        let hidden = live.values.is_empty();
        let mut values = Vec::new();
        for at in if hidden { live.firsts } else { live.values } {
            let place = if hidden { None } else { self.past_place(at)? };
            let value = place.map_or(Place::Removed, |place| Place::In { parent: place.parent, name: place.name });
            values.push(Value { at, count: self.count_of(at)?, value: Some(value) });
        }
        let mut aside = before.aside.clone();
        aside.retain(|known| *known != at);
        if self.is_late_value(&at) {
            aside.push(at);
            aside.sort_unstable();
        }
        let same = aside == before.aside
            && values.len() == before.values.len()
            && values.iter().zip(&before.values).all(|(a, b)| a.at == b.at && a.value == b.value);
        if same {
            return Ok(());
        }
        let mut link = (*before).clone();
        (link.values, link.aside) = (values, aside);
        self.put_link(ino, node, Some(&*before), link)
    }

    fn reconsider_setting(&mut self, tag: &NodeId, at: ValueRef) -> Result<()> {
        let Some(mut row) = self.setting_row_now(tag)? else { return Ok(()) };
        let old: Vec<ValueRef> = row.values.iter().map(|v| v.at).collect();
        let live = self.live_without_void(&old, at, &[])?.values;
        if live == old {
            return Ok(());
        }
        row.values = self.values_of_register(&row.values, &live, |core, at, raw, head| {
            let ChangeKind::Setting { epoch, tag } = head.kind else { return Ok(None) };
            let Some(key) = core.epoch_key(&epoch) else { return Ok(None) };
            let body: Option<SettingBody> = core.open_stored(at, &key.derive(Label::BodyKey), raw)?;
            let body = body.filter(|b| {
                settings::may_be(&b.name, b.value.as_deref()) && crate::agreed::setting_tag(&key, &b.name) == tag
            });
            let device = core.branch_of(at.dot)?.device;
            let (user, _) = core.author(&device, at.dot)?;
            Ok(body.map(|SettingBody { name, value }| SettingValue { user, device, name, value }))
        })?;
        self.put_setting_row(row);
        Ok(())
    }

    /// Notes that a change took values of a file's content away and put none there.
    pub(crate) fn note_settle(&mut self, ino: Ino, at: ValueRef) {
        let key = [SETTLED, &ino.0.to_be_bytes()[..], &at.key()[..]].concat();
        self.store.put(&mut self.overlay.batch, Space::Meta, key, &[]);
    }

    fn settles(&mut self, ino: Ino) -> Result<Vec<ValueRef>> {
        let prefix = [SETTLED, &ino.0.to_be_bytes()[..]].concat();
        let rows = self.store.scan(Space::Meta, &prefix, &prefix_end(&prefix), usize::MAX)?;
        let found = rows.iter().map(|(key, _)| {
            ValueRef::from_key(&key[prefix.len()..]).ok_or_else(|| Error::damaged("a settled conflict"))
        });
        found.collect()
    }

    /// Opens the body of a change of a node under its key of a generation.
    pub(crate) fn opened_with<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        node: &Node,
        generation: u32,
        at: ValueRef,
        raw: &RawChange,
    ) -> Result<Option<T>> {
        for key in node.keys_of(generation).rev() {
            if let Some(body) = self.open_stored(at, &key.derive(Label::BodyKey), raw)? {
                return Ok(Some(body));
            }
        }
        Ok(None)
    }
}
