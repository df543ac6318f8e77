//! The merged state as it was: rows of nodes and entries as they were before later commits.
//!
//! A row says since which commit it is as it is, by the number in which that arrived here. When a later commit changes or
//! removes it, it goes to a space of its own first, under its key and the number of that commit: the row as it was after
//! the commit that arrived as number `n` is the first such one that is over only after `n`, or else the present row, if
//! it was there at `n` already. So history is read by the code that reads the present ([`Core::as_of`]), and what no
//! later commit changed costs nothing.
//!
//! Invariants: a history row is stored in the batch that changes the row, and never changes; the open commit's number is
//! the one that arrives next, and nothing arrives while it is open; what a commit makes and removes leaves nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    commit::{Header, encode, encode_into},
    core::{Core, arrival_key, decode_row, entry_key},
    error::{Error, Result},
    node::{Attributes, Ino},
    record,
    row::{Entry, NodeRow, Xattr},
    sealed_store::SealedStore,
    spilled::Item,
    store::{Batch, Space, prefix_end},
    time::Timestamp,
    tree::next_tag,
    version::Dot,
    volume::Volume,
};

/// History rows of a directory that are read at once.
const PAGE: usize = 64;

const NODE: u8 = b'n';
const ENTRY: u8 = b'e';

/// Key of a row as it was until the commit that arrived as number `until`.
fn key(kind: u8, row: &[u8], until: u64) -> Vec<u8> {
    [&[kind], row, &until.to_be_bytes()].concat()
}

/// Puts into `batch` what a node's row was until the commit that arrives as number `until`.
pub(crate) fn keep_node(
    store: &SealedStore,
    batch: &mut Batch,
    ino: Ino,
    row: &NodeRow,
    until: u64,
    plain: &mut Vec<u8>,
) {
    encode_into(plain, row);
    store.put(batch, Space::History, key(NODE, &ino.0.to_be_bytes(), until), plain);
}

/// The same of an entry.
pub(crate) fn keep_entry(
    store: &SealedStore,
    batch: &mut Batch,
    (directory, tag): (Ino, &[u8; 16]),
    entry: &Entry,
    until: u64,
    plain: &mut Vec<u8>,
) {
    encode_into(plain, entry);
    store.put(batch, Space::History, key(ENTRY, &entry_key(directory, tag), until), plain);
}

/// Key of an attribute's row as it was: empty where there was none. (It has no row that could say since when it is.)
pub(crate) fn item_key<T: Item>(ino: Ino, id: &[u8; 16], until: u64) -> Vec<u8> {
    key(T::KINDS[0], &[&ino.0.to_be_bytes()[..], id].concat(), until)
}

/// What a row of the history is of, and from when until when it was so: from 0 for an attribute, whose row doesn't say.
pub(crate) fn span(row: &[u8], plain: &[u8]) -> Option<(u64, u64)> {
    let (before, until) = row.split_last_chunk()?;
    let since = match before.split_first()? {
        (&NODE, ino) if ino.len() == 8 => record::read::<NodeRow>(plain).ok()?.since(),
        (&ENTRY, entry) if entry.len() == 24 => record::read::<Entry>(plain).ok()?.since,
        (kind, item) if *kind == Xattr::KINDS[0] && item.len() == 24 => {
            plain.is_empty().then_some(()).or_else(|| record::read::<Xattr>(plain).ok().map(|_| ()))?;
            0
        }
        _ => return None,
    };
    Some((since, u64::from_be_bytes(*until)))
}

/// Whether a stored row of the history is one: what it tells of was over when its key says so.
pub(crate) fn is_sound(row: &[u8], plain: &[u8]) -> bool {
    span(row, plain).is_some_and(|(since, until)| since < until)
}

/// Inode numbers with this bit stand for nodes of the past: behind it is which past, then the number of the node.
const PAST: u64 = 1 << 62;
const INO_BITS: u32 = 40;
/// Pasts that can be looked at while a process runs: their numbers have the bits from [`INO_BITS`] to 59, so that who shows
/// a volume can tell numbers of its own by the others.
const MOST: usize = 1 << 20;

/// When the state can be read as it was: after every arrival from `thinned_to` on, and before that after those kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moments {
    /// Before this arrival there is no history.
    pub from: u64,
    pub thinned_to: u64,
    /// In rising order.
    pub kept: Vec<u64>,
}

impl Moments {
    /// Key in [`Space::Meta`].
    pub(crate) const KEY: &[u8] = b"history";

    /// The last moment up to an arrival that can be read.
    pub(crate) fn at(&self, arrival: u64) -> Option<u64> {
        if arrival >= self.thinned_to {
            return (arrival >= self.from).then_some(arrival);
        }
        self.kept.get(self.kept.partition_point(|kept| *kept <= arrival).checked_sub(1)?).copied()
    }

    /// The first moment from an arrival on that can be read.
    pub(crate) fn from(&self, arrival: u64) -> u64 {
        if arrival >= self.thinned_to {
            return arrival;
        }
        let next = self.kept.get(self.kept.partition_point(|kept| *kept < arrival));
        next.copied().unwrap_or(self.thinned_to)
    }

    /// Whether what a row says, from `since` until before `until`, is read at any moment.
    pub(crate) fn need(&self, since: u64, until: u64) -> bool {
        until > self.thinned_to || {
            let next = self.kept.get(self.kept.partition_point(|kept| *kept < since));
            next.is_some_and(|kept| *kept < until)
        }
    }
}

/// Key in [`Space::Meta`] of when the clock was set back, by arrival, and to what; both rise.
pub(crate) const SET_BACK: &[u8] = b"set back";
/// More often than that, times are only as good as they can be.
const MOST_SET_BACK: usize = 1000;
/// A clock that is set back by less is not worth a note, in seconds.
const CLOCK_ERROR: i64 = 60;

/// A state that was: after the commit that arrived as number `arrival`, and before the next one.
#[derive(Clone, Copy)]
pub(crate) struct Past {
    pub arrival: u64,
    /// Since when it showed.
    shown: Timestamp,
    /// Its inode numbers begin with this.
    prefix: u64,
}

impl Past {
    /// For reading by the numbers that nodes have here.
    pub(crate) fn after(arrival: u64) -> Self {
        Past { arrival, shown: Timestamp { secs: i64::MAX, nanos: 0 }, prefix: 0 }
    }

    /// One in which nothing is asked for by number.
    pub(crate) fn unnumbered(arrival: u64, shown: Timestamp) -> Self {
        Self { arrival, shown, prefix: 0 }
    }

    fn number(self, ino: Ino) -> Ino {
        Ino(self.prefix | ino.0 & ((1 << INO_BITS) - 1))
    }

    /// The row of a file that was only moved or removed since is as it was but for this.
    pub(crate) fn correct(self, attributes: &mut Attributes) {
        attributes.ctime = attributes.ctime.min(self.shown);
        attributes.links = attributes.links.max(1);
    }
}

/// Which pasts were asked for: an inode number names one by its place here.
#[derive(Default)]
pub(crate) struct Pasts {
    pasts: Vec<Past>,
    places: HashMap<u64, usize>,
}

/// Whether this number stands for a node of the past, or for nothing that a volume has: of that nothing can be changed.
pub fn is_past(ino: Ino) -> bool {
    ino.0 >= PAST
}

/// The number of a node in the past whose root has this number.
pub(crate) fn beside(root: Ino, ino: Ino) -> Ino {
    let node = (1 << INO_BITS) - 1;
    Ino(root.0 & !node | ino.0 & node)
}

/// The number of the commit that ended what a row of the history tells of.
pub(crate) fn until(key: &[u8]) -> Result<u64> {
    let (_, until) = key.split_last_chunk().ok_or_else(|| Error::damaged("history key"))?;
    Ok(u64::from_be_bytes(*until))
}

/// The tag in the key of an entry's row.
fn tag_of(key: &[u8]) -> Result<[u8; 16]> {
    key.get(9..25).and_then(|tag| tag.try_into().ok()).ok_or_else(|| Error::damaged("history key"))
}

/// Nothing of the past can be changed.
pub(crate) fn check_present(inos: &[Ino]) -> Result<()> {
    if inos.iter().copied().any(is_past) { Err(Error::ReadOnly) } else { Ok(()) }
}

fn decode_item<T: Item>(bytes: &[u8]) -> Result<Option<Arc<T>>> {
    if bytes.is_empty() { Ok(None) } else { decode_row(T::WHAT, bytes).map(|item| Some(Arc::new(item))) }
}

impl Volume {
    /// The number of the commit that arrived last; 0 in a volume without any.
    pub fn last_arrival(&self) -> u64 {
        self.inner.core.lock().next_arrival - 1
    }

    /// The moment that is shown to who asks for what was after an arrival: that, or the last one before it that is kept.
    pub fn moment(&self, arrival: u64) -> Option<u64> {
        self.inner.core.lock().moments.at(arrival)
    }

    /// The root of the tree as it was after the commit that arrived as number `arrival`, before the next one.
    ///
    /// # Errors
    /// [`Error::NotFound`] before history begins here, [`Error::TooManyLinks`] when too many pasts were looked at since
    /// the volume was opened; or the disk failed.
    pub fn past(&self, arrival: u64) -> Result<Ino> {
        let arrival = {
            let core = self.inner.core.lock();
            core.moments.at(arrival.min(core.next_arrival - 1)).ok_or(Error::NotFound)?
        };
        let mut pasts = self.inner.pasts.lock();
        if let Some(place) = pasts.places.get(&arrival) {
            return Ok(pasts.pasts[*place].number(Ino::ROOT));
        }
        let place = pasts.pasts.len();
        if place >= MOST {
            return Err(Error::TooManyLinks);
        }
        let shown = self.inner.core.lock().shown_since(arrival)?;
        let past = Past { arrival, shown, prefix: PAST | (place as u64) << INO_BITS };
        pasts.pasts.push(past);
        pasts.places.insert(arrival, place);
        Ok(past.number(Ino::ROOT))
    }

    /// The number that a node of the past has in the present, and the arrival after which it was as it is there.
    pub fn of_the_past(&self, ino: Ino) -> Option<(Ino, u64)> {
        let place = (ino.0 & !PAST) >> INO_BITS;
        let past = self.inner.pasts.lock().pasts.get(usize::try_from(place).ok()?).copied().filter(|_| is_past(ino))?;
        Some((Ino(ino.0 & ((1 << INO_BITS) - 1)), past.arrival))
    }

    /// The root of the tree as it showed here at some time. What came from before this device was admitted counts as
    /// having shown when its authors say that they made it.
    ///
    /// # Errors
    /// As [`Self::past`].
    pub fn past_at(&self, time: Timestamp) -> Result<Ino> {
        let arrival = self.inner.core.lock().arrival_at(time)?;
        self.past(arrival)
    }

    /// Reads of a node, of the present or the past; with its number there, and what gives others theirs.
    pub(crate) fn reading<R>(
        &self,
        ino: Ino,
        f: impl FnOnce(&mut Core, Ino, &dyn Fn(Ino) -> Ino) -> Result<R>,
    ) -> Result<R> {
        if !is_past(ino) {
            return f(&mut self.inner.core.lock(), ino, &|ino| ino);
        }
        let place = (ino.0 & !PAST) >> INO_BITS;
        let past = self.inner.pasts.lock().pasts.get(place as usize).copied().ok_or(Error::NotFound)?;
        let node = Ino(ino.0 & ((1 << INO_BITS) - 1));
        let mut core = self.inner.core.lock();
        // It may have been looked at before it was thinned out.
        if core.moments.at(past.arrival) != Some(past.arrival) {
            return Err(Error::NotFound);
        }
        core.as_of(past, |core| f(core, node, &|ino| past.number(ino)))
    }
}

impl Core {
    /// Runs `f` with the merged state as it was then. It must change nothing.
    pub(crate) fn as_of<R>(&mut self, past: Past, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
        // What the running call has changed is in no row of the past yet.
        let overlay = std::mem::take(&mut self.overlay);
        let before = self.past.replace(past);
        let result = f(self);
        self.past = before;
        self.overlay = overlay;
        result
    }

    /// Since when a commit shows that is taken in now. What its author dates before this device's admission was never seen
    /// to come, and showed to others when it was made.
    pub(crate) fn shows_since(&mut self, header: &Header, batch: &mut Batch) -> Timestamp {
        let (now, own) = (self.now(), self.device.id());
        let comes =
            header.device == own || self.members.devices.get(&own).is_some_and(|device| header.time >= device.admitted);
        let shown = match self.showed {
            Some(showed) => showed.min(now),
            None if comes => now,
            None => header.time.min(now),
        };
        if comes && self.showed.is_none() && shown.secs.saturating_add(CLOCK_ERROR) < self.last_shown.secs {
            self.clock_was_ahead(shown, batch);
        }
        self.last_shown = self.last_shown.max(shown);
        self.last_shown
    }

    /// The clock was set back: what is said to show only later shows already.
    fn clock_was_ahead(&mut self, now: Timestamp, batch: &mut Batch) {
        self.set_back.retain(|(_, to)| *to < now);
        if self.set_back.len() < MOST_SET_BACK {
            self.set_back.push((self.next_arrival, now));
            self.store.put(batch, Space::Meta, SET_BACK, &encode(&self.set_back));
            self.last_shown = now;
        }
    }

    /// Since when the commit shows that arrived as this number.
    pub(crate) fn shown_since(&self, arrival: u64) -> Result<Timestamp> {
        if arrival == 0 {
            return Ok(Timestamp::default());
        }
        let dot = self.arrived_as(arrival)?;
        let shown = self.commit_row(dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?.shown;
        // The first time that it was set back since says enough: later ones that matter less are not kept.
        let after = self.set_back.partition_point(|(from, _)| *from <= arrival);
        Ok(self.set_back.get(after).map_or(shown, |(_, to)| shown.min(*to)))
    }

    /// The commit that arrived as this number.
    pub(crate) fn arrived_as(&self, arrival: u64) -> Result<Dot> {
        let key = self.store.raw().get(Space::Index, &arrival_key(arrival))?;
        key.and_then(|key| Dot::from_key(&key)).ok_or_else(|| Error::damaged("a commit is missing"))
    }

    /// The number of the last commit that showed at `time`; 0 before the first.
    pub(crate) fn arrival_at(&self, time: Timestamp) -> Result<u64> {
        // Those up to `shown` showed, from `later` on they didn't: times rise with the numbers.
        let (mut shown, mut later) = (0, self.next_arrival);
        while later - shown > 1 {
            let middle = shown + (later - shown) / 2;
            if self.shown_since(middle)? <= time { shown = middle } else { later = middle }
        }
        Ok(shown)
    }

    /// What a name led to before `until` when it last led anywhere, and which commit ended that.
    pub(crate) fn last_shown(&self, directory: Ino, name: &[u8], until: u64) -> Result<Option<(Entry, u64)>> {
        let row = entry_key(directory, &self.tag(name));
        let from = key(ENTRY, &row, 0);
        let mut to = key(ENTRY, &row, until.saturating_add(1));
        while let Some((key, sealed)) = self.store.raw().last(Space::History, &from, &to)? {
            let entry: Entry = decode_row("entry as it was", &self.store.open(Space::History, &key, &sealed)?)?;
            let until = key.last_chunk().map(|until| u64::from_be_bytes(*until));
            match (entry.shown(), until) {
                (_, None) => return Err(Error::damaged("history key")),
                (Some(_), Some(until)) => return Ok(Some((entry, until))),
                (None, _) => to = key,
            }
        }
        Ok(None)
    }

    /// The first row that was over only after `arrival`.
    fn row_until_after(&self, kind: u8, row: &[u8], arrival: u64) -> Result<Option<Vec<u8>>> {
        let (from, to) = (key(kind, row, arrival.saturating_add(1)), key(kind, row, u64::MAX));
        Ok(self.store.scan(Space::History, &from, &to, 1)?.pop().map(|(_, bytes)| bytes))
    }

    pub(crate) fn past_row(&mut self, ino: Ino, arrival: u64) -> Result<Option<Arc<NodeRow>>> {
        // What is so since before is over at no moment after that: most rows, and none need be looked for.
        let present = self.present_row(ino)?;
        if present.as_ref().is_some_and(|row| row.since() <= arrival) {
            return Ok(present);
        }
        let row = self.row_until_after(NODE, &ino.0.to_be_bytes(), arrival)?;
        let row: Option<NodeRow> = row.map(|bytes| decode_row("node as it was", &bytes)).transpose()?;
        let row = row.map(Arc::new);
        Ok(row.filter(|row: &Arc<NodeRow>| row.since() <= arrival))
    }

    pub(crate) fn past_entry(&mut self, directory: Ino, name: &[u8], arrival: u64) -> Result<Arc<Entry>> {
        let tag = self.tag(name);
        if let Some(entry) = self.present_entry(directory, &tag)?.filter(|entry| entry.since <= arrival) {
            return Ok(entry);
        }
        let row = self.row_until_after(ENTRY, &entry_key(directory, &tag), arrival)?;
        let entry: Option<Entry> = row.map(|bytes| decode_row("entry as it was", &bytes)).transpose()?;
        let entry = entry.map(Arc::new);
        let there = entry.filter(|entry: &Arc<Entry>| entry.since <= arrival);
        Ok(there.unwrap_or_else(|| Arc::new(Entry { name: name.to_vec(), ..Entry::default() })))
    }

    /// What an attribute was then; the outer `None` if it is that still.
    pub(crate) fn past_item<T: Item>(&self, ino: Ino, id: &[u8; 16], past: Past) -> Result<Option<Option<Arc<T>>>> {
        let row = [&ino.0.to_be_bytes()[..], id].concat();
        let was = self.row_until_after(T::KINDS[0], &row, past.arrival)?;
        was.map(|bytes| decode_item(&bytes)).transpose()
    }

    /// The attributes of a node that were changed since then, as they were.
    pub(crate) fn items_changed_since<T: Item>(
        &self,
        ino: Ino,
        past: Past,
    ) -> Result<BTreeMap<[u8; 16], Option<Arc<T>>>> {
        let prefix = [&[T::KINDS[0]], &ino.0.to_be_bytes()[..]].concat();
        let mut from = prefix.clone();
        let mut found = BTreeMap::new();
        loop {
            let rows = self.store.raw().scan(Space::History, &from, &prefix_end(&prefix), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(found) };
            from = [last.as_slice(), &[0]].concat();
            for (key, sealed) in rows {
                let parts = key.get(9..25).zip(key.get(25..33));
                let parts = parts.and_then(|(id, until)| Some((id.try_into().ok()?, until.try_into().ok()?)));
                let (id, until): ([u8; 16], [u8; 8]) = parts.ok_or_else(|| Error::damaged("history key"))?;
                if u64::from_be_bytes(until) > past.arrival && !found.contains_key(&id) {
                    found.insert(id, decode_item(&self.store.open(Space::History, &key, &sealed)?)?);
                }
            }
        }
    }

    /// About `limit` entries of a directory from a tag on, in the order of their tags, as they were; none means that there
    /// are no more.
    pub(crate) fn past_entries(
        &mut self,
        directory: Ino,
        from: &[u8; 16],
        limit: usize,
        arrival: u64,
    ) -> Result<Vec<([u8; 16], Arc<Entry>)>> {
        let mut from = *from;
        loop {
            let present = self.stored_entries(directory, &from, limit)?;
            let last = present.last_key_value().map(|(tag, _)| *tag).filter(|_| present.len() >= limit);
            let (mut found, end) = self.changed_since(directory, &from, last, limit, arrival)?;
            for (tag, entry) in present.range(..=end) {
                found.entry(*tag).or_insert_with(|| Some(entry.clone()).filter(|entry| entry.since <= arrival));
            }
            let found: Vec<_> = found.into_iter().filter_map(|(tag, entry)| Some((tag, entry?))).collect();
            match next_tag(end) {
                Some(next) if found.is_empty() => from = next,
                _ => return Ok(found),
            }
        }
    }

    /// Of the entries with tags from `from` to `last` (to the end without one), those that later commits changed, as they
    /// were: nothing where there was none. Also tells up to which tag that is all: after about `limit` it stops.
    #[allow(clippy::type_complexity, reason = "a map and where it ends")]
    fn changed_since(
        &self,
        directory: Ino,
        from: &[u8; 16],
        last: Option<[u8; 16]>,
        limit: usize,
        arrival: u64,
    ) -> Result<(BTreeMap<[u8; 16], Option<Arc<Entry>>>, [u8; 16])> {
        let end = last.unwrap_or([u8::MAX; 16]);
        let to = key(ENTRY, &entry_key(directory, &end), u64::MAX);
        let mut from = key(ENTRY, &entry_key(directory, from), 0);
        let mut found: BTreeMap<[u8; 16], Option<Arc<Entry>>> = BTreeMap::new();
        loop {
            let rows = self.store.raw().scan(Space::History, &from, &to, PAGE)?;
            let complete = rows.len() < PAGE;
            let mut at = None;
            for (key, sealed) in rows {
                let parts = key.get(9..25).zip(key.get(25..33));
                let parts = parts.and_then(|(tag, until)| Some((tag.try_into().ok()?, until.try_into().ok()?)));
                let (tag, until): ([u8; 16], [u8; 8]) = parts.ok_or_else(|| Error::damaged("history key"))?;
                at = Some(tag);
                if u64::from_be_bytes(until) <= arrival || found.contains_key(&tag) {
                    continue;
                }
                let entry: Entry = decode_row("entry as it was", &self.store.open(Space::History, &key, &sealed)?)?;
                found.insert(tag, Some(Arc::new(entry)).filter(|entry| entry.since <= arrival));
            }
            let Some(tag) = at.filter(|_| !complete) else { return Ok((found, end)) };
            if found.len() >= limit && found.contains_key(&tag) {
                return Ok((found, tag));
            }
            // The rest of this name's rows are passed over: all of them if it is settled, else those that were over before.
            let next = if found.contains_key(&tag) { u64::MAX } else { arrival.saturating_add(1) };
            from = key(ENTRY, &entry_key(directory, &tag), next);
        }
    }

    /// Numbers of commits in `from..to` that changed a node's row, in order.
    pub(crate) fn node_changes(&self, ino: Ino, from: u64, to: u64, found: &mut Vec<u64>) -> Result<()> {
        let ino = ino.0.to_be_bytes();
        let (mut from, to) = (key(NODE, &ino, from), key(NODE, &ino, to));
        while from < to {
            let rows = self.store.raw().scan(Space::History, &from, &to, PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (key, _) in &rows {
                found.push(until(key)?);
            }
        }
        Ok(())
    }

    fn opened_entry(&self, key: &[u8], sealed: &[u8]) -> Result<Entry> {
        decode_row("entry as it was", &self.store.open(Space::History, key, sealed)?)
    }

    /// Rows of an entry that were over at `from` or later, the first `limit` of them.
    pub(crate) fn entry_rows(
        &self,
        directory: Ino,
        tag: &[u8; 16],
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Arc<Entry>)>> {
        let row = entry_key(directory, tag);
        let rows = self.store.scan(Space::History, &key(ENTRY, &row, from), &key(ENTRY, &row, u64::MAX), limit)?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((until(&key)?, Arc::new(decode_row("entry as it was", &bytes)?))))
            .collect()
    }

    /// The last row of an entry that was over before `before`.
    pub(crate) fn entry_row_before(&self, directory: Ino, tag: &[u8; 16], before: u64) -> Result<Option<(u64, Entry)>> {
        let row = entry_key(directory, tag);
        match self.store.raw().last(Space::History, &key(ENTRY, &row, 0), &key(ENTRY, &row, before))? {
            Some((key, sealed)) => Ok(Some((until(&key)?, self.opened_entry(&key, &sealed)?))),
            None => Ok(None),
        }
    }

    /// Whether anything ever changed of what the names of a directory led to.
    pub(crate) fn has_name_history(&self, directory: Ino) -> Result<bool> {
        let prefix = [&[ENTRY], &directory.0.to_be_bytes()[..]].concat();
        Ok(!self.store.raw().scan(Space::History, &prefix, &prefix_end(&prefix), 1)?.is_empty())
    }

    /// The tags of a directory's names that changed, from one on, each with its last row where that is at hand; up to some
    /// tag, and which is the next.
    #[allow(clippy::type_complexity, reason = "rows by tag, and where they end")]
    pub(crate) fn names_with_history(
        &self,
        directory: Ino,
        from: &[u8; 16],
        limit: usize,
    ) -> Result<(BTreeMap<[u8; 16], Option<(u64, Entry)>>, Option<[u8; 16]>)> {
        let to = prefix_end(&[&[ENTRY], &directory.0.to_be_bytes()[..]].concat());
        let rows = self.store.raw().scan(Space::History, &key(ENTRY, &entry_key(directory, from), 0), &to, limit)?;
        let complete = rows.len() < limit;
        let mut found = BTreeMap::new();
        for (place, (key, sealed)) in rows.iter().enumerate() {
            let tag = tag_of(key)?;
            let is_last = match rows.get(place + 1) {
                Some((next, _)) => tag_of(next)? != tag,
                None => complete,
            };
            let row = match is_last {
                true => Some((until(key)?, self.opened_entry(key, sealed)?)),
                false => None,
            };
            found.insert(tag, row);
        }
        let next = found.last_key_value().filter(|_| !complete).and_then(|(tag, _)| next_tag(*tag));
        Ok((found, next))
    }

    /// All rows of the names of a directory from a tag on, up to some tag, and which is the next.
    pub(crate) fn history_of_names(&self, directory: Ino, from: &[u8; 16], limit: usize) -> Result<NameRows> {
        let (tags, next) = self.names_with_history(directory, from, limit)?;
        let mut rows = Vec::new();
        for tag in tags.into_keys() {
            let mut after = 0;
            loop {
                let page = self.entry_rows(directory, &tag, after, limit)?;
                let Some((last, _)) = page.last() else { break };
                after = last + 1;
                rows.extend(page);
            }
        }
        Ok(NameRows { rows, next })
    }
}

/// Rows of names as they were, with the commits that ended them.
pub(crate) struct NameRows {
    pub rows: Vec<(u64, Arc<Entry>)>,
    /// Where reading goes on.
    pub next: Option<[u8; 16]>,
}
