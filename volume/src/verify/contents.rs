//! The contents: every list node and block under its name, every page of current ones under its seal.

use crate::{
    commit::{ChangeKind, Head, RawChange},
    content::{BlockHash, BlockHead, BlockKind, ContentData, KeyRing, is_base},
    error::Error,
    fetch::{children, height},
    node::Ino,
    record,
    row::NodeRow,
    store::Space,
    version::ValueRef,
};

use super::{DamageKind, Verifier};

/// What is asked of a content.
enum Must<'a> {
    /// What is here of it must be what its names say.
    Match,
    /// All of it must be here as well.
    BeHere,
    /// And must open.
    Open(&'a KeyRing),
}

/// A content whose blocks are being looked at.
struct Looked<'a> {
    /// What its blocks must open with; nothing for versions that nobody sees any more.
    keys: Option<&'a KeyRing>,
    /// Blocks that aren't here are damage.
    whole: bool,
    /// What was found.
    faults: Vec<BlockHash>,
}

impl Verifier<'_> {
    pub(super) fn contents(&mut self) {
        self.rows(Space::Nodes, |this, rows| {
            for (key, sealed) in rows {
                // Not what nodes have in rows of their own.
                let Ok(number) = <[u8; 8]>::try_from(key.as_slice()) else { continue };
                // A record that doesn't open was told before.
                let Ok(plain) = this.volume.inner.store.open(Space::Nodes, &key, &sealed) else { continue };
                let Ok(row) = record::read::<NodeRow>(&plain) else { continue };
                let contents = match &row {
                    NodeRow::Node(node) => node.content.len(),
                    // The value that shows there is none of the node's shown one: it has its own number.
                    NodeRow::View { .. } => 1,
                };
                if contents > 0 {
                    this.file(Ino(u64::from_be_bytes(number)), &row);
                }
            }
        });
        self.rows(Space::Changes, |this, rows| {
            for (key, bytes) in rows {
                let Some(at) = ValueRef::from_key(&key) else { continue };
                let change: Option<RawChange> = rmp_serde::from_slice(&bytes).ok();
                let head: Option<Head> = change.and_then(|c| rmp_serde::from_slice(&c.head).ok());
                let Some(Head { kind: ChangeKind::Content { node, root, blocks, .. }, .. }) = head else { continue };
                if root.is_hole() || this.live.contains(&at) {
                    continue;
                }
                let path = || {
                    let core = &mut *this.volume.inner.core.lock();
                    let ino = core.ino_of_node(&node).ok().flatten()?;
                    core.path_of(ino)
                };
                let path = path();
                this.tree(at, (root, blocks), Must::Match, path, "of an older version");
            }
        });
    }

    /// The current content of a file, or of a conflicting version beside it.
    fn file(&mut self, ino: Ino, row: &NodeRow) {
        let at = match row {
            NodeRow::Node(node) => node.content.last().map(|v| v.at),
            NodeRow::View { value, .. } => Some(*value),
        };
        let Some(at) = at else { return };
        // Of what was removed nothing need be here.
        let gone = matches!(row, NodeRow::Node(node) if node.is_gone());
        let (unread, version, path) = {
            let core = &mut *self.volume.inner.core.lock();
            let whole = match row {
                NodeRow::Node(_) => None,
                NodeRow::View { of, .. } => core.row(*of).ok().flatten(),
            };
            let unread = core.kept_unread(whole.as_deref().unwrap_or(row), at).ok().flatten();
            (unread, core.version(ino), core.path_of(ino))
        };
        if let Some(unread) = unread {
            match unread.filter(|_| !gone) {
                Some(tree) => {
                    self.live.insert(at);
                    self.tree(at, tree, Must::BeHere, path, "of it");
                }
                None => self.report.checked.contents += 1,
            }
            return;
        }
        match version {
            Ok(version) => match version.content.data {
                ContentData::Inline(_) => self.report.checked.contents += 1,
                ContentData::Tree { .. } if gone => {}
                ContentData::Tree { root, blocks } => {
                    self.live.insert(at);
                    self.tree(at, (root, blocks), Must::Open(&version.keys), path, "of it");
                }
            },
            // For others alone, and so not fetched.
            Err(Error::Denied) => drop(self.live.insert(at)),
            // It went away since the page was read.
            Err(Error::NotFound) => {}
            Err(e) => self.damage(DamageKind::Commit, format!("its content can't be read: {e}"), path, None),
        }
    }

    fn tree(
        &mut self,
        at: ValueRef,
        (root, blocks): (BlockHash, u64),
        must: Must<'_>,
        path: Option<Vec<u8>>,
        whose: &str,
    ) {
        self.report.checked.contents += 1;
        // What isn't here yet is no damage as long as it is known to be missing; older versions need not come at all.
        let (keys, current) = match must {
            Must::Match => (None, false),
            Must::BeHere => (None, true),
            Must::Open(keys) => (Some(keys), true),
        };
        let whole = current && !self.wanted.contains(&at);
        let mut looked = Looked { keys, whole, faults: Vec::new() };
        self.walk(root, height(blocks), &mut looked);
        if looked.faults.iter().any(|hash| self.bad[hash].0 == DamageKind::Block) {
            self.hurt.push((at, root, blocks));
        }
        for hash in looked.faults {
            let (kind, what) = self.bad[&hash].clone();
            self.damage(kind, format!("block {} {whose} {what}", hash.short()), path.clone(), Some(hash));
        }
        (self.progress)(&self.report.checked);
    }

    /// Looks at all below a list node or block; tells whether all is well.
    fn walk(&mut self, hash: BlockHash, height: u32, looked: &mut Looked<'_>) -> bool {
        if hash.is_hole() || (height > 0 && self.clean.contains(&(hash, height))) {
            return true;
        }
        if self.bad.contains_key(&hash) {
            looked.faults.push(hash);
            return false;
        }
        if height == 0 && self.good.contains(&hash) {
            return true;
        }
        let Some(bytes) = self.whole(hash, looked) else { return false };
        if height > 0 {
            if BlockHash::of_list(&bytes) != hash {
                return self.fault(hash, DamageKind::Sealing, "stands where a list should", looked);
            }
            let mut well = true;
            for (child, height) in children(&bytes, height) {
                well &= self.walk(child, height, looked);
            }
            if well {
                self.clean.insert((hash, height));
            }
            return well;
        }
        if !self.opens(hash, &bytes, looked) {
            return false;
        }
        let Some(BlockKind::Patch { base }) = BlockKind::of(&hash, &bytes) else { return true };
        let well = self.base(hash, base, looked);
        if !well {
            // Whoever else has it lacks its base as well.
            self.good.remove(&hash);
        }
        well
    }

    /// Looks at the block below a patch.
    fn base(&mut self, patch: BlockHash, base: BlockHash, looked: &mut Looked<'_>) -> bool {
        if self.bad.contains_key(&base) {
            looked.faults.push(base);
            return false;
        }
        if self.good.contains(&base)
            && self.volume.inner.blocks.store().head(&base).is_ok_and(|h| h.is_some_and(|h| is_base(&h)))
        {
            return true;
        }
        let Some(bytes) = self.whole(base, looked) else { return false };
        if !is_base(&BlockHead::of(&bytes)) {
            return self.fault(patch, DamageKind::Sealing, "lies over no full block", looked);
        }
        self.opens(base, &bytes, looked)
    }

    /// The bytes of a block that is here and whole.
    fn whole(&mut self, hash: BlockHash, looked: &mut Looked<'_>) -> Option<Vec<u8>> {
        let fault = match self.volume.inner.blocks.get_checked(&hash) {
            Ok(Some(bytes)) => {
                if self.good.insert(hash) {
                    self.report.checked.blocks += 1;
                    self.report.checked.bytes += bytes.len() as u64;
                }
                return Some(bytes);
            }
            Ok(None) if looked.whole => "is missing".to_owned(),
            Ok(None) => return None,
            Err(Error::Damaged(_)) => "is damaged".to_owned(),
            Err(e) => format!("can't be read: {e}"),
        };
        self.fault(hash, DamageKind::Block, &fault, looked);
        None
    }

    /// Whether all of a block opens under its file's keys.
    fn opens(&mut self, hash: BlockHash, bytes: &[u8], looked: &mut Looked<'_>) -> bool {
        let opens = looked.keys.is_none_or(|keys| self.volume.inner.blocks.opens(keys, bytes));
        opens || self.fault(hash, DamageKind::Sealing, "was sealed wrongly by its author", looked)
    }

    fn fault(&mut self, hash: BlockHash, kind: DamageKind, what: &str, looked: &mut Looked<'_>) -> bool {
        self.good.remove(&hash);
        self.bad.insert(hash, (kind, what.to_owned()));
        looked.faults.push(hash);
        false
    }
}
