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

use crate::{
    commit::encode_into,
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

/// Whether a stored row of the history is one: what it tells of was over when its key says so.
pub(crate) fn is_sound(row: &[u8], plain: &[u8]) -> bool {
    let Some((before, until)) = row.split_last_chunk().map(|(before, until)| (before, u64::from_be_bytes(*until)))
    else {
        return false;
    };
    let since = match before.split_first() {
        Some((&NODE, ino)) if ino.len() == 8 => record::read::<NodeRow>(plain).ok().map(|row| row.since()),
        Some((kind, item)) if *kind == Xattr::KINDS[0] && item.len() == 24 => {
            (plain.is_empty() || record::read::<Xattr>(plain).is_ok()).then_some(0)
        }
        Some((&ENTRY, entry)) if entry.len() == 24 => record::read::<Entry>(plain).ok().map(|entry| entry.since),
        _ => None,
    };
    since.is_some_and(|since| since < until)
}

/// Inode numbers with this bit stand for nodes of the past: behind it is which past, then the number of the node.
const PAST: u64 = 1 << 62;
const INO_BITS: u32 = 40;
/// Pasts that can be looked at while a process runs: their numbers have the bits from [`INO_BITS`] to 59, so that who shows
/// a volume can tell numbers of its own by the others.
const MOST: usize = 1 << 20;

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

    /// The root of the tree as it was after the commit that arrived as number `arrival`, before the next one.
    ///
    /// # Errors
    /// [`Error::NotFound`] before history begins here, [`Error::TooManyLinks`] when too many pasts were looked at since
    /// the volume was opened; or the disk failed.
    pub fn past(&self, arrival: u64) -> Result<Ino> {
        let arrival = arrival.min(self.last_arrival());
        let mut pasts = self.inner.pasts.lock();
        if let Some(place) = pasts.places.get(&arrival) {
            return Ok(pasts.pasts[*place].number(Ino::ROOT));
        }
        let place = pasts.pasts.len();
        if place >= MOST {
            return Err(Error::TooManyLinks);
        }
        let core = self.inner.core.lock();
        if arrival < core.history_from {
            return Err(Error::NotFound);
        }
        let shown = core.shown_since(arrival)?;
        drop(core);
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
        self.inner.core.lock().as_of(past, |core| f(core, node, &|ino| past.number(ino)))
    }
}

impl Core {
    /// Runs `f` with the merged state as it was then. It must change nothing.
    pub(crate) fn as_of<R>(&mut self, past: Past, f: impl FnOnce(&mut Core) -> Result<R>) -> Result<R> {
        let before = self.past.replace(past);
        let result = f(self);
        self.past = before;
        result
    }

    /// From when on a commit that its author dates at `time` shows, if it is taken in now: what is older than this device's
    /// admission was never seen to come, and showed to others when it was made.
    pub(crate) fn shows_from(&self, time: Timestamp) -> Timestamp {
        let now = self.now();
        if let Some(showed) = self.showed {
            return showed.min(now);
        }
        match self.members.devices.get(&self.device.id()) {
            Some(device) if time >= device.admitted => now,
            _ => time.min(now),
        }
    }

    /// Since when the commit shows that arrived as this number.
    pub(crate) fn shown_since(&self, arrival: u64) -> Result<Timestamp> {
        let missing = || Error::damaged("a commit is missing");
        if arrival == 0 {
            return Ok(Timestamp::default());
        }
        let key = self.store.raw().get(Space::Index, &arrival_key(arrival))?.ok_or_else(missing)?;
        let dot = Dot::from_key(&key).ok_or_else(missing)?;
        Ok(self.commit_row(dot)?.ok_or_else(missing)?.shown)
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

    /// The first row that was over only after `arrival`.
    fn row_until_after(&self, kind: u8, row: &[u8], arrival: u64) -> Result<Option<Vec<u8>>> {
        let (from, to) = (key(kind, row, arrival.saturating_add(1)), key(kind, row, u64::MAX));
        Ok(self.store.scan(Space::History, &from, &to, 1)?.pop().map(|(_, bytes)| bytes))
    }

    pub(crate) fn past_row(&mut self, ino: Ino, arrival: u64) -> Result<Option<Arc<NodeRow>>> {
        let row = match self.row_until_after(NODE, &ino.0.to_be_bytes(), arrival)? {
            Some(bytes) => Some(Arc::new(decode_row("node as it was", &bytes)?)),
            None => self.present_row(ino)?,
        };
        Ok(row.filter(|row: &Arc<NodeRow>| row.since() <= arrival))
    }

    pub(crate) fn past_entry(&mut self, directory: Ino, name: &[u8], arrival: u64) -> Result<Arc<Entry>> {
        let tag = self.tag(name);
        let entry = match self.row_until_after(ENTRY, &entry_key(directory, &tag), arrival)? {
            Some(bytes) => Some(Arc::new(decode_row("entry as it was", &bytes)?)),
            None => self.present_entry(directory, &tag)?,
        };
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
