//! How the names in a directory changed.

use std::collections::BTreeMap;

use super::{Author, Claimed, Happened, Leads, PAGE, Rows, Stretch, leads_to};
use crate::{
    core::Core,
    error::Result,
    node::{Ino, NodeKind},
    time::Timestamp,
    tree::next_tag,
    volume::Volume,
};

/// A change of what a name in a directory led to.
#[derive(Clone, Debug)]
pub struct EntryChange {
    /// The name.
    pub name: Vec<u8>,
    /// The number of the commit.
    pub arrival: u64,
    /// Since when it showed on this device.
    pub shown: Timestamp,
    /// Who made it.
    pub author: Author,
    /// What happened.
    pub happened: Happened,
    /// What the name led to from then on, or until then.
    pub kind: NodeKind,
}

impl Volume {
    /// How the names in a directory changed, the newest first, at most `limit` of these; of every directory that a path
    /// led to, while it did. Costs what the directory holds, and what happened to its names.
    ///
    /// # Errors
    /// The disk failed, or is damaged.
    pub fn entry_changes(&self, path: &[&[u8]], limit: usize) -> Result<Vec<EntryChange>> {
        self.close_pending()?;
        let mut core = self.inner.core.lock();
        let levels = core.stretches(path)?;
        let mut changes = Vec::new();
        for directory in levels.last().into_iter().flatten().filter(|s| s.kind == NodeKind::Directory) {
            for (name, rows) in core.all_rows(directory.ino)? {
                core.changes_of_name(directory, &name, &rows, &mut changes)?;
            }
        }
        changes.sort_by(|a, b| (b.arrival, &b.name).cmp(&(a.arrival, &a.name)));
        changes.truncate(limit);
        changes.into_iter().map(|change| core.told(change)).collect()
    }
}

/// A change of a name before it is known who made it.
struct NameChange {
    arrival: u64,
    name: Vec<u8>,
    kind: NodeKind,
    /// What the name leads to since then, if nobody gave it that name: it is beside another's.
    beside: Option<Ino>,
    what: NameChanged,
}

enum NameChanged {
    Made,
    /// By what was there already, at this place.
    Came {
        replaces: bool,
        claim: Claimed,
    },
    Replaced,
    Gone(Leads),
}

impl Core {
    /// The rows of every name of a directory, each name's in order.
    fn all_rows(&mut self, directory: Ino) -> Result<BTreeMap<Vec<u8>, Rows>> {
        let mut found: BTreeMap<Vec<u8>, Rows> = BTreeMap::new();
        let mut from = [0; 16];
        loop {
            let page = self.history_of_names(directory, &from, PAGE)?;
            for (until, entry) in page.rows {
                found.entry(entry.name.clone()).or_default().push((entry.since, until, entry));
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        let mut from = [0; 16];
        loop {
            let page = self.stored_entries(directory, &from, PAGE)?;
            let Some((last, _)) = page.last_key_value() else { return Ok(found) };
            let next = next_tag(*last);
            for entry in page.into_values() {
                found.entry(entry.name.clone()).or_default().push((entry.since, u64::MAX, entry));
            }
            match next {
                Some(next) => from = next,
                None => return Ok(found),
            }
        }
    }

    /// Notes how a name in a directory changed while that was what is asked for.
    fn changes_of_name(
        &mut self,
        directory: &Stretch,
        name: &[u8],
        rows: &Rows,
        changes: &mut Vec<NameChange>,
    ) -> Result<()> {
        let last = self.next_arrival - 1;
        let mut note = |arrival: u64, leads: Leads, what| {
            // Names can go in one commit with the directory.
            let until = directory.until.saturating_add(u64::from(matches!(what, NameChanged::Gone(_))));
            if arrival >= directory.from && arrival < until && arrival <= last {
                let beside = (leads.claim.is_none() && !matches!(what, NameChanged::Gone(_))).then_some(leads.ino);
                changes.push(NameChange { arrival, name: name.to_vec(), kind: leads.kind, beside, what });
            }
        };
        let mut before: Option<(Leads, u64)> = None;
        for (since, until, entry) in rows {
            let leads = leads_to(entry);
            if let Some((old, ended)) = before.filter(|(_, ended)| ended < since || leads.is_none()) {
                note(ended, old, NameChanged::Gone(old));
                before = None;
            }
            let Some(leads) = leads else { continue };
            if before.is_none_or(|(old, _)| old.ino != leads.ino) {
                let replaces = before.is_some();
                let what = match self.past_row(leads.ino, since.saturating_sub(1))?.is_some() {
                    true => NameChanged::Came { replaces, claim: leads.claim },
                    false if replaces => NameChanged::Replaced,
                    false => NameChanged::Made,
                };
                note(*since, leads, what);
            }
            before = Some((leads, *until));
        }
        if let Some((old, ended)) = before {
            note(ended, old, NameChanged::Gone(old));
        }
        Ok(())
    }

    /// The change of a name, with who made it, and where from and to.
    fn told(&mut self, NameChange { arrival, name, kind, beside, what }: NameChange) -> Result<EntryChange> {
        let happened = match what {
            NameChanged::Made => Happened::Made,
            NameChanged::Replaced => Happened::Replaced { from: None },
            NameChanged::Came { replaces, claim } => match (replaces, self.came_from(claim, &[], arrival)?) {
                (true, from) => Happened::Replaced { from },
                (false, Some(from)) => Happened::MovedHere { from },
                (false, None) => Happened::Appeared,
            },
            NameChanged::Gone(old) => self.went(old.ino, old.claim, &[], arrival)?,
        };
        let author = match beside {
            Some(ino) => self.maker(ino, arrival)?,
            None => self.author_of_arrival(arrival)?,
        };
        let shown = self.shown_since(arrival)?;
        Ok(EntryChange { name, arrival, shown, author, happened, kind })
    }
}
