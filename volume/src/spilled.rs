//! Links and extended attributes of nodes that have many of them: rows of their own beside the node's.
//!
//! A node's row holds the first few; what doesn't fit goes into rows that only calls on that link or attribute read and
//! write, so that no call's cost follows from how many there are. Those that don't show (removed, but a concurrent change
//! may bring them back) lie apart from those that do. The node's row counts what lies outside it ([`Spilled`]).
//!
//! Invariants: a link or attribute is in the node's row or has a row, never both; the counts are those of the rows.

use std::{collections::BTreeMap, sync::Arc};

use lru::LruCache;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    commit::encode,
    core::{Core, Overlay, decode_row},
    error::Result,
    history,
    id::LinkId,
    node::Ino,
    row::{Link, Node, Xattr, XattrValue},
    sealed_store::SealedStore,
    store::{Batch, Space, prefix_end},
    tree::is_placed,
};

/// How many links, and how many attributes, a node's row holds itself.
const KEPT: usize = 4;
/// An attribute of more bytes has a row of its own however few there are.
const KEPT_BYTES: usize = 1024;
/// Rows that are read at once.
const PAGE: usize = 64;

/// What of a node lies in rows of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spilled {
    /// Links that show, and those that don't.
    pub links: [u32; 2],
    /// Links with a live place.
    pub placed: u32,
    /// Attributes that are set, and those that aren't.
    pub xattrs: [u32; 2],
    /// Bytes of the names of those that are set, each with its end.
    pub names: u64,
}

impl Spilled {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Nil in rows, when there is nothing: most rows.
pub(crate) mod or_nil {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Spilled;

    pub(crate) fn serialize<S: Serializer>(spilled: &Spilled, serializer: S) -> Result<S::Ok, S::Error> {
        Some(spilled).filter(|spilled| !spilled.is_nothing()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spilled, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or_default())
    }
}

/// A spilled item that the running call changed.
pub(crate) struct Changed<T> {
    /// Whether it showed as it is stored; `None`: it has no row yet.
    stored: Option<bool>,
    item: Arc<T>,
}

/// Spilled items by their node and id.
pub(crate) type Items<T> = BTreeMap<(Ino, [u8; 16]), Changed<T>>;
pub(crate) type ItemCache<T> = LruCache<(Ino, [u8; 16]), Arc<T>>;

/// A link or an extended attribute.
pub(crate) trait Item: Clone + Serialize + DeserializeOwned {
    /// In keys: of those that show, and of those that don't.
    const KINDS: [u8; 2];
    const WHAT: &'static str;

    fn id(&self) -> [u8; 16];
    /// Itself, if it is a link.
    fn link(&self) -> Option<&Link> {
        None
    }
    fn shows(&self) -> bool;
    /// Whether a node's row may hold it.
    fn is_small(&self) -> bool;
    /// Adds it to what a node has outside its row, or takes it off.
    fn count(&self, node: &mut Node, add: bool);
    /// How many a node has outside its row: that show, that don't.
    fn counted(spilled: &Spilled) -> [u32; 2];
    fn kept(node: &Node) -> &Vec<Arc<Self>>;
    fn kept_mut(node: &mut Node) -> &mut Vec<Arc<Self>>;
    fn changed(overlay: &Overlay) -> &Items<Self>;
    fn changed_mut(overlay: &mut Overlay) -> &mut Items<Self>;
    fn cache(core: &mut Core) -> &mut ItemCache<Self>;

    fn key(ino: Ino, id: &[u8; 16], shows: bool) -> Vec<u8> {
        [&prefix::<Self>(ino, shows)[..], id].concat()
    }
}

fn prefix<T: Item>(ino: Ino, shows: bool) -> [u8; 9] {
    let mut prefix = [T::KINDS[usize::from(!shows)]; 9];
    prefix[..8].copy_from_slice(&ino.0.to_be_bytes());
    prefix
}

fn tally(count: &mut u32, add: bool) {
    *count = if add { count.saturating_add(1) } else { count.saturating_sub(1) };
}

impl Item for Link {
    const KINDS: [u8; 2] = *b"lm";
    const WHAT: &'static str = "link";

    fn id(&self) -> [u8; 16] {
        *self.id.as_bytes()
    }

    fn link(&self) -> Option<&Link> {
        Some(self)
    }

    fn shows(&self) -> bool {
        self.shown.is_some()
    }

    fn is_small(&self) -> bool {
        true
    }

    fn count(&self, node: &mut Node, add: bool) {
        tally(&mut node.spilled.links[usize::from(!self.shows())], add);
        if is_placed(self) {
            tally(&mut node.spilled.placed, add);
        }
    }

    fn counted(spilled: &Spilled) -> [u32; 2] {
        spilled.links
    }

    fn kept(node: &Node) -> &Vec<Arc<Self>> {
        &node.links
    }

    fn kept_mut(node: &mut Node) -> &mut Vec<Arc<Self>> {
        &mut node.links
    }

    fn changed(overlay: &Overlay) -> &Items<Self> {
        &overlay.links
    }

    fn changed_mut(overlay: &mut Overlay) -> &mut Items<Self> {
        &mut overlay.links
    }

    fn cache(core: &mut Core) -> &mut ItemCache<Self> {
        &mut core.links
    }
}

impl Item for Xattr {
    const KINDS: [u8; 2] = *b"xy";
    const WHAT: &'static str = "extended attribute";

    fn id(&self) -> [u8; 16] {
        *self.tag.as_bytes()
    }

    fn shows(&self) -> bool {
        // The name of what never had a body that makes sense isn't known.
        !self.name.is_empty() && self.values.last().is_some_and(|v| v.value != Some(XattrValue::Removed))
    }

    fn is_small(&self) -> bool {
        let bytes = self.values.iter().map(|v| match &v.value {
            Some(XattrValue::Set(value)) => value.len(),
            _ => 0,
        });
        bytes.sum::<usize>() <= KEPT_BYTES
    }

    fn count(&self, node: &mut Node, add: bool) {
        tally(&mut node.spilled.xattrs[usize::from(!self.shows())], add);
        if self.shows() {
            let names = node.spilled.names;
            let bytes = self.name.len() as u64 + 1;
            node.spilled.names = if add { names.saturating_add(bytes) } else { names.saturating_sub(bytes) };
        }
    }

    fn counted(spilled: &Spilled) -> [u32; 2] {
        spilled.xattrs
    }

    fn kept(node: &Node) -> &Vec<Arc<Self>> {
        &node.xattrs
    }

    fn kept_mut(node: &mut Node) -> &mut Vec<Arc<Self>> {
        &mut node.xattrs
    }

    fn changed(overlay: &Overlay) -> &Items<Self> {
        &overlay.xattrs
    }

    fn changed_mut(overlay: &mut Overlay) -> &mut Items<Self> {
        &mut overlay.xattrs
    }

    fn cache(core: &mut Core) -> &mut ItemCache<Self> {
        &mut core.xattrs
    }
}

/// How many rows a node's links or attributes have: those that show, those that don't.
pub(crate) fn count_rows<T: Item>(store: &SealedStore, ino: Ino) -> Result<[u32; 2]> {
    let mut counts = [0; 2];
    for (shows, count) in [true, false].into_iter().zip(&mut counts) {
        let prefix = prefix::<T>(ino, shows);
        let mut from = prefix.to_vec();
        loop {
            let rows = store.raw().scan(Space::Nodes, &from, &prefix_end(&prefix), PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            *count += u32::try_from(rows.len()).unwrap_or(u32::MAX);
        }
    }
    Ok(counts)
}

/// Takes out of a list what the node's row shall not hold: what is too big, and of too many those that don't show first.
fn overflow<T: Item>(list: &mut Vec<Arc<T>>) -> Vec<Arc<T>> {
    let mut out = Vec::new();
    let mut over = list.len().saturating_sub(KEPT);
    if over == 0 && list.iter().all(|item| item.is_small()) {
        return out;
    }
    list.retain(|item| {
        let goes = !item.is_small() || (over > 0 && !item.shows());
        if goes {
            over = over.saturating_sub(1);
            out.push(item.clone());
        }
        !goes
    });
    out.extend(list.drain(KEPT.min(list.len())..));
    out
}

impl Core {
    /// Puts links and attributes that a node's row shall not hold into rows of their own.
    pub(crate) fn spill(&mut self, ino: Ino, node: &mut Node) {
        self.spill_items::<Link>(ino, node);
        self.spill_items::<Xattr>(ino, node);
    }

    fn spill_items<T: Item>(&mut self, ino: Ino, node: &mut Node) {
        for item in overflow(T::kept_mut(node)) {
            item.count(node, true);
            T::changed_mut(&mut self.overlay).insert((ino, item.id()), Changed { stored: None, item });
        }
    }

    /// A link of a node.
    pub(crate) fn link_of(&mut self, ino: Ino, node: &Node, id: &LinkId) -> Result<Option<Arc<Link>>> {
        self.item(ino, node, id.as_bytes())
    }

    /// A link or attribute of a node.
    pub(crate) fn item<T: Item>(&mut self, ino: Ino, node: &Node, id: &[u8; 16]) -> Result<Option<Arc<T>>> {
        if let Some(kept) = T::kept(node).iter().find(|item| item.id() == *id) {
            return Ok(Some(kept.clone()));
        }
        let counted = T::counted(&node.spilled);
        if counted == [0; 2] {
            return Ok(None);
        }
        if let Some(past) = self.past
            && let Some(was) = self.past_item(ino, id, past)?
        {
            return Ok(was);
        }
        if let Some(changed) = T::changed(&self.overlay).get(&(ino, *id)) {
            return Ok(Some(changed.item.clone()));
        }
        if let Some(item) = T::cache(self).get(&(ino, *id)) {
            return Ok(Some(item.clone()));
        }
        for shows in [true, false] {
            if let Some(bytes) = self.store.get(Space::Nodes, &T::key(ino, id, shows))? {
                let item: Arc<T> = Arc::new(decode_row(T::WHAT, &bytes)?);
                T::cache(self).put((ino, *id), item.clone());
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// Puts a link or attribute of a node that is about to be put back; `old` is what [`Self::item`] found.
    pub(crate) fn put_item<T: Item>(&mut self, ino: Ino, node: &mut Node, old: Option<&T>, new: Arc<T>) {
        let id = new.id();
        if let Some(kept) = T::kept_mut(node).iter_mut().find(|item| item.id() == id) {
            *kept = new;
            return;
        }
        let Some(old) = old else { return T::kept_mut(node).push(new) };
        old.count(node, false);
        new.count(node, true);
        match T::changed_mut(&mut self.overlay).entry((ino, id)) {
            std::collections::btree_map::Entry::Occupied(mut changed) => changed.get_mut().item = new,
            std::collections::btree_map::Entry::Vacant(unchanged) => {
                unchanged.insert(Changed { stored: Some(old.shows()), item: new });
            }
        }
    }

    /// Gives every link or attribute of a node that shows, or every one that doesn't, to `each` until it wants no more.
    pub(crate) fn each_item<T: Item>(
        &mut self,
        ino: Ino,
        node: &Node,
        shows: bool,
        mut each: impl FnMut(&Arc<T>) -> bool,
    ) -> Result<()> {
        for item in T::kept(node).iter().filter(|item| item.shows() == shows) {
            if !each(item) {
                return Ok(());
            }
        }
        if T::counted(&node.spilled)[usize::from(!shows)] == 0 {
            return Ok(());
        }
        let changed_since = match self.past {
            Some(past) => self.items_changed_since::<T>(ino, past)?,
            None => BTreeMap::new(),
        };
        for item in changed_since.values().flatten() {
            if item.shows() == shows && !each(item) {
                return Ok(());
            }
        }
        for (_, changed) in T::changed(&self.overlay).range((ino, [0; 16])..=(ino, [u8::MAX; 16])) {
            if changed.item.shows() == shows && !each(&changed.item) {
                return Ok(());
            }
        }
        let prefix = prefix::<T>(ino, shows);
        let mut from = prefix.to_vec();
        loop {
            let rows = self.store.scan(Space::Nodes, &from, &prefix_end(&prefix), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            for (_, bytes) in rows {
                let item: Arc<T> = Arc::new(decode_row(T::WHAT, &bytes)?);
                let other = T::changed(&self.overlay).contains_key(&(ino, item.id()));
                if !other && !changed_since.contains_key(&item.id()) && !each(&item) {
                    return Ok(());
                }
            }
        }
    }

    /// Every link of a node, those that show first.
    pub(crate) fn link_ids(&mut self, ino: Ino, node: &Node) -> Result<Vec<LinkId>> {
        let mut ids = Vec::with_capacity(node.links.len());
        for shows in [true, false] {
            self.each_item::<Link>(ino, node, shows, |link| {
                ids.push(link.id);
                true
            })?;
        }
        Ok(ids)
    }

    /// The links of a node that show somewhere.
    pub(crate) fn shown_links(&mut self, ino: Ino, node: &Node) -> Result<Vec<Arc<Link>>> {
        let mut links = Vec::new();
        self.each_item::<Link>(ino, node, true, |link| {
            links.push(link.clone());
            true
        })?;
        Ok(links)
    }

    /// A link of a node that shows somewhere.
    pub(crate) fn first_shown(&mut self, ino: Ino, node: &Node) -> Result<Option<Arc<Link>>> {
        let mut first = None;
        self.each_item::<Link>(ino, node, true, |link| {
            first = Some(link.clone());
            false
        })?;
        Ok(first)
    }

    /// Puts the changed rows of the call that is being stored into its batch.
    pub(crate) fn put_items<T: Item>(&self, batch: &mut Batch, items: &Items<T>) {
        for ((ino, id), Changed { stored, item }) in items {
            let shows = item.shows();
            if *stored == Some(!shows) {
                batch.remove(Space::Nodes, T::key(*ino, id, !shows));
            }
            self.store.put(batch, Space::Nodes, T::key(*ino, id, shows), &encode(&**item));
        }
    }

    /// Puts what these attributes were until now into the history, unless the open commit has changed them before.
    pub(crate) fn keep_xattrs(&self, batch: &mut Batch, items: &Items<Xattr>, open: u64) -> Result<()> {
        for ((ino, id), Changed { stored, .. }) in items {
            let key = history::item_key::<Xattr>(*ino, id, open);
            if self.store.raw().get(Space::History, &key)?.is_some() {
                continue;
            }
            // Sealed as it lies there; nothing stands for none.
            let old = match stored {
                Some(shows) => self.store.get(Space::Nodes, &Xattr::key(*ino, id, *shows))?.unwrap_or_default(),
                None => Vec::new(),
            };
            self.store.put(batch, Space::History, key, &old);
        }
        Ok(())
    }

    /// Remembers what was stored.
    pub(crate) fn keep_items<T: Item>(&mut self, items: Items<T>) {
        for (key, changed) in items {
            T::cache(self).put(key, changed.item);
        }
    }
}

#[cfg(test)]
mod tests {
    use crypto::UserId;

    use super::*;
    use crate::id::NodeId;
    use crate::{
        node::NodeKind,
        row::{NodeRow, Shown, Value},
        time::Timestamp,
        version::{BranchNo, Dot, ValueRef},
    };

    const AT: ValueRef = ValueRef { dot: Dot { branch: BranchNo(1), seq: 2 }, index: 3 };

    fn link(id: u8, shows: bool) -> Arc<Link> {
        let shown = shows.then(|| Shown { parent: Ino::ROOT, name: vec![b'a' + id], at: AT, count: 1 });
        Arc::new(Link { id: LinkId::from_bytes([id; 16]), values: Vec::new(), shown, aside: Vec::new() })
    }

    fn xattr(id: u8, bytes: usize) -> Arc<Xattr> {
        let value = Some(XattrValue::Set(vec![id; bytes].into()));
        let values = vec![Value { at: AT, count: 1, value }];
        Arc::new(Xattr { tag: NodeId::from_bytes([id; 16]), name: vec![id], values })
    }

    fn ids<T: Item>(list: &[Arc<T>]) -> Vec<u8> {
        list.iter().map(|item| item.id()[0]).collect()
    }

    #[test]
    fn what_does_not_show_goes_first_and_the_newest_next() {
        let check = |shown: &[u8], count: u8, kept: &[u8], out: &[u8]| {
            let mut links: Vec<_> = (0..count).map(|id| link(id, shown.contains(&id))).collect();
            let spilled = overflow(&mut links);
            assert_eq!((ids(&links), ids(&spilled)), (kept.to_vec(), out.to_vec()), "{shown:?} of {count}");
        };
        check(&[], 4, &[0, 1, 2, 3], &[]);
        check(&[0, 1, 2, 3], 4, &[0, 1, 2, 3], &[]);
        check(&[0, 2, 3, 4], 5, &[0, 2, 3, 4], &[1]);
        check(&[3, 4], 5, &[1, 2, 3, 4], &[0]);
        check(&[0, 1, 2, 3, 4], 5, &[0, 1, 2, 3], &[4]);
        check(&[0, 1, 2, 3, 5, 6], 8, &[0, 1, 2, 3], &[4, 7, 5, 6]);
    }

    #[test]
    fn a_large_attribute_has_a_row_of_its_own() {
        let mut xattrs = vec![xattr(1, KEPT_BYTES), xattr(2, KEPT_BYTES + 1), xattr(3, 0)];
        let spilled = overflow(&mut xattrs);
        assert_eq!((ids(&xattrs), ids(&spilled)), (vec![1, 3], vec![2]));
    }

    /// As rows were before links had rows of their own: however many links, and nothing after the views.
    #[test]
    fn rows_from_before_are_read() {
        let node = Node {
            id: NodeId::from_bytes([1; 16]),
            kind: NodeKind::File,
            rdev: 0,
            target: Vec::new(),
            born: vec![AT],
            owner: UserId::ZERO,
            btime: Timestamp::default(),
            keys: Vec::new(),
            access: Vec::new(),
            meta: Vec::new(),
            xattrs: Vec::new(),
            content: Vec::new(),
            links: (0..40).map(|id| link(id, true)).collect(),
            ctime: Timestamp::default(),
            mtime: Timestamp::default(),
            entry_change: None,
            subdirs: 0,
            merged_into: None,
            merged: Vec::new(),
            hung_at: None,
            views: Vec::new(),
            spilled: Spilled::default(),
            since: 0,
        };
        let read = |row: &[u8]| match decode_row("node", row).unwrap() {
            NodeRow::Node(read) => (read.links.len(), read.shown_count(), read.spilled, read.since),
            NodeRow::View { .. } => panic!("a view"),
        };
        let mut row = encode(&NodeRow::Node(Box::new(node.clone())));
        // A map of the variant to a list of 23 parts, the last two of which there were not; later the very last.
        assert_eq!((&row[..6], &row[row.len() - 2..]), (&[0x81, 0xa1, b'n', 0xdc, 0, 23][..], &[0xc0, 0][..]));
        row[5] = 21;
        assert_eq!(read(&row[..row.len() - 2]), (40, 40, Spilled::default(), 0));
        let spilled = Spilled { links: [7, 2], ..Spilled::default() };
        let mut row = encode(&NodeRow::Node(Box::new(Node { spilled, since: 3, ..node })));
        assert_eq!(read(&row), (40, 47, spilled, 3));
        row[5] = 22;
        assert_eq!(read(&row[..row.len() - 1]), (40, 47, spilled, 0));
    }
}
