//! What this device keeps of nodes and directory entries: the merged state, derived from the
//! commits and sealed at rest.

use std::sync::Arc;

use crypto::{DerivingKey, Label, SymmetricKey, UserId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    content::BlockHash,
    id::{LinkId, NodeId, RealmId},
    node::{Ino, NodeKind},
    rights,
    spilled::{self, Spilled},
    time::Timestamp,
    tree::is_placed,
    version::ValueRef,
};

/// One value of a register that nobody superseded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Value<T> {
    /// Which.
    pub at: ValueRef,
    /// Count of its commit, first in the order of concurrent values.
    pub count: u64,
    /// `None`: its author was allowed to write it but it doesn't decode; it reads as damaged.
    pub value: Option<T>,
}

/// A node's access value, as shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    pub owner: UserId,
    pub realm: RealmId,
    pub grants: Vec<(UserId, u8)>,
    pub judged_mode: u16,
    pub generation: u32,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub acl: ByteBuf,
    pub default_acl: ByteBuf,
    /// What came of its sealed part, which is all from `mode` on.
    #[serde(default)]
    pub opened: Opened,
}

/// What came of the sealed part of an access value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Opened {
    #[default]
    #[serde(rename = "o")]
    Yes,
    /// The key isn't known here.
    #[serde(rename = "s")]
    Sealed,
    /// It doesn't decode.
    #[serde(rename = "d")]
    Damaged,
}

/// Times set by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub mtime: Option<Timestamp>,
    pub atime: Timestamp,
}

/// A content value: what its register needs to know. Inline bytes stay in the change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContentValue {
    pub size: u64,
    pub allocated: u64,
    pub mtime: Timestamp,
    /// Root and number of blocks; `None`: the bytes are inline in the change.
    pub tree: Option<(BlockHash, u64)>,
    /// Generation of the node key that sealed the body.
    pub generation: u32,
    /// Node keys its blocks need beside the node's own.
    pub keys: Vec<SymmetricKey>,
}

/// Where a link is.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum Place {
    /// In that directory under that name.
    #[serde(rename = "p")]
    In {
        parent: Ino,
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    },
    /// Removed.
    #[serde(rename = "r")]
    Removed,
}

/// Where a link shows.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The directory its place names (which may show as part of a merged one).
    pub parent: Ino,
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// The value it comes from, and its count.
    pub at: ValueRef,
    pub count: u64,
}

/// One name of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    pub id: LinkId,
    pub values: Vec<Value<Place>>,
    pub shown: Option<Shown>,
    /// Values that are late ([`crate::late`]): somebody may have seen them.
    #[serde(default)]
    pub aside: Vec<ValueRef>,
}

/// What an extended attribute holds. (Not an `Option` in a value's `Option`: MessagePack cannot tell these apart.)
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum XattrValue {
    #[serde(rename = "v")]
    Set(ByteBuf),
    /// Removed.
    #[serde(rename = "r")]
    Removed,
}

/// An extended attribute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Xattr {
    pub tag: NodeId,
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    pub values: Vec<Value<XattrValue>>,
}

/// A node with all its registers. Every list of values is in rising order: the last one shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub id: NodeId,
    pub kind: NodeKind,
    pub rdev: u32,
    #[serde(with = "serde_bytes")]
    pub target: Vec<u8>,
    /// Where it was born: more than once if a log forked, and both branches tell of it word for word.
    pub born: Vec<ValueRef>,
    /// The user who bore it.
    pub owner: UserId,
    pub btime: Timestamp,
    /// Keys by generation.
    pub keys: Vec<(u32, DerivingKey)>,
    pub access: Vec<Value<Access>>,
    pub meta: Vec<Value<Meta>>,
    /// The attributes that have no row of their own ([`crate::spilled`]).
    pub xattrs: Vec<Arc<Xattr>>,
    pub content: Vec<Value<ContentValue>>,
    /// The links that have no row of their own; of a directory its only one.
    pub links: Vec<Arc<Link>>,
    /// Derived: last change of anything.
    pub ctime: Timestamp,
    /// Derived: what shows as modification time.
    pub mtime: Timestamp,
    /// A directory's last change of an entry: value, count, time.
    pub entry_change: Option<(ValueRef, u64, Timestamp)>,
    /// A directory's shown subdirectories.
    pub subdirs: u32,
    /// A directory that shows as part of this one.
    pub merged_into: Option<Ino>,
    /// The directories that show as part of this one.
    pub merged: Vec<Ino>,
    /// A directory in a would-be cycle hangs here instead of at its winning place.
    pub hung_at: Option<(Ino, ByteBuf, ValueRef, u64)>,
    /// For each value beside the shown one of a file in conflict, the number under which it shows.
    pub views: Vec<(ValueRef, Ino)>,
    /// What has rows of its own.
    #[serde(default, with = "spilled::or_nil")]
    pub spilled: Spilled,
    /// Arrival of the commit since which this row is as it is, but for a removal or a move ([`crate::history`]). 0 in a
    /// row from before there was history.
    #[serde(default)]
    pub since: u64,
}

impl Node {
    /// The keys of a generation: two, if its node was narrowed apart.
    pub(crate) fn keys_of(&self, generation: u32) -> impl DoubleEndedIterator<Item = &DerivingKey> {
        self.keys.iter().filter(move |(g, _)| *g == generation).map(|(_, key)| key)
    }

    /// The access value that shows, as far as it is known. (Rows of earlier versions have none where it doesn't decode.)
    pub(crate) fn shown_access(&self) -> Option<&Access> {
        self.access.last().and_then(|value| value.value.as_ref())
    }

    /// Whose it is now.
    pub(crate) fn owner_now(&self) -> UserId {
        self.shown_access().map_or(self.owner, |access| access.owner)
    }

    /// What a user may: what all live access values let them.
    pub(crate) fn rights_of(&self, user: &UserId) -> u8 {
        let values = self.access.iter().filter_map(|value| value.value.as_ref());
        values.fold(rights::ALL, |left, a| left & rights::bits_of(&a.owner, a.judged_mode, &a.grants, user))
    }

    /// Whether this user can't read it.
    pub(crate) fn is_sealed_to(&self, user: &UserId) -> bool {
        self.shown_access().is_some_and(|access| access.opened == Opened::Sealed)
            || self.rights_of(user) & rights::READ == 0
    }

    /// The tag of an extended attribute's name: under the key that the node was born with.
    pub(crate) fn xattr_tag(&self, name: &[u8]) -> Option<NodeId> {
        let first = self.keys_of(1).next()?;
        Some(NodeId::from_bytes(crypto::keyed_tag(first.key(), Label::LinkTag, name)))
    }

    /// The newest generation's key.
    pub(crate) fn current_key(&self) -> Option<(u32, &DerivingKey)> {
        // Not one that only a late access value brought: who comes later would not be given it.
        let top = self.access.iter().filter_map(|v| v.value.as_ref()).map(|access| access.generation).max();
        let of_top = self.keys.iter().rev().find(|(generation, _)| Some(*generation) == top);
        let found = of_top.or_else(|| self.keys.iter().max_by_key(|(generation, _)| *generation));
        found.map(|(generation, key)| (*generation, key))
    }

    /// How many links show somewhere.
    pub(crate) fn shown_count(&self) -> usize {
        self.links.iter().filter(|link| link.shown.is_some()).count() + self.spilled.links[0] as usize
    }

    /// Whether a link shows somewhere.
    pub(crate) fn is_shown(&self) -> bool {
        self.spilled.links[0] > 0 || self.links.iter().any(|link| link.shown.is_some())
    }

    /// Whether a link has a live place.
    pub(crate) fn is_placed(&self) -> bool {
        self.spilled.placed > 0 || self.links.iter().any(|link| is_placed(link))
    }

    /// Whether who reads this file finds no more than another change time than in `old`, wherever it is.
    pub(crate) fn reads_as(&self, old: &Node) -> bool {
        fn ats<T>(values: &[Value<T>]) -> impl Iterator<Item = (ValueRef, bool)> {
            values.iter().map(|value| (value.at, value.value.is_some()))
        }
        let same_xattr = |(one, other): (&Arc<Xattr>, &Arc<Xattr>)| {
            Arc::ptr_eq(one, other) || one.tag == other.tag && ats(&one.values).eq(ats(&other.values))
        };
        let (links, before) = (self.shown_count(), old.shown_count());
        self.kind != NodeKind::Directory
            && (links == before || before == 1 && links == 0)
            && self.mtime == old.mtime
            && ats(&self.content).eq(ats(&old.content))
            && ats(&self.access).eq(ats(&old.access))
            && ats(&self.meta).eq(ats(&old.meta))
            && self.keys.len() == old.keys.len()
            && self.xattrs.len() == old.xattrs.len()
            && self.xattrs.iter().zip(&old.xattrs).all(same_xattr)
            && self.spilled.xattrs == old.spilled.xattrs
            && self.views == old.views
    }

    /// Whether nobody can come upon it any more, but for those who have it open or look at the past. (What was edited by
    /// somebody who had not seen its removal shows although all its links were removed.)
    pub(crate) fn is_gone(&self) -> bool {
        self.is_removed() && !self.is_shown()
    }

    /// Whether all links were removed.
    pub(crate) fn is_removed(&self) -> bool {
        let any = !self.links.is_empty() || self.spilled.links != [0; 2];
        any && !self.is_placed()
    }
}

/// What an inode number stands for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum NodeRow {
    /// A node.
    #[serde(rename = "n")]
    Node(Box<Node>),
    /// One value of a file in conflict, beside the one that shows.
    #[serde(rename = "v")]
    View {
        /// The file.
        of: Ino,
        /// The value.
        value: ValueRef,
        /// As [`Node::since`].
        #[serde(default)]
        since: u64,
    },
}

impl NodeRow {
    /// Its contents that lie in blocks, as far as they open: root and number of blocks of each.
    pub(crate) fn trees(&self) -> impl Iterator<Item = (BlockHash, u64)> {
        let values = match self {
            NodeRow::Node(node) => node.content.as_slice(),
            NodeRow::View { .. } => &[],
        };
        values.iter().filter_map(|value| value.value.as_ref()?.tree)
    }

    /// Its contents that this device can't open.
    pub(crate) fn closed_contents(&self) -> impl Iterator<Item = ValueRef> {
        let values = match self {
            NodeRow::Node(node) => node.content.as_slice(),
            NodeRow::View { .. } => &[],
        };
        values.iter().filter(|value| value.value.is_none()).map(|value| value.at)
    }

    /// As [`Node::since`].
    pub(crate) fn since(&self) -> u64 {
        match self {
            NodeRow::Node(node) => node.since,
            NodeRow::View { since, .. } => *since,
        }
    }

    pub(crate) fn set_since(&mut self, arrival: u64) {
        match self {
            NodeRow::Node(node) => node.since = arrival,
            NodeRow::View { since, .. } => *since = arrival,
        }
    }
}

/// A link that wants to show under a name.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Claim {
    pub child: Ino,
    pub link: LinkId,
    pub kind: NodeKind,
    /// The directory its place names.
    pub parent: Ino,
    /// Its place, and its count: the least keeps the name.
    pub at: ValueRef,
    pub count: u64,
}

/// An entry that follows from others: a conflicting value, or a link whose name is taken.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Derived {
    pub ino: Ino,
    pub kind: NodeKind,
    /// The name it derives from.
    #[serde(with = "serde_bytes")]
    pub base: Vec<u8>,
}

/// One name in one directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Entry {
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Who wants it, the one that keeps it first.
    pub claims: Vec<Claim>,
    /// Shows here when nobody claims the name.
    pub derived: Option<Derived>,
    /// The names of entries that derive from this one.
    pub derives: Vec<ByteBuf>,
    /// Names from which an entry derives that would show here, were it free.
    pub wanted_by: Vec<ByteBuf>,
    /// As [`Node::since`].
    #[serde(default)]
    pub since: u64,
}

impl Entry {
    /// What the name leads to.
    pub(crate) fn shown(&self) -> Option<(Ino, NodeKind)> {
        match self.claims.first() {
            Some(claim) => Some((claim.child, claim.kind)),
            None => self.derived.as_ref().map(|d| (d.ino, d.kind)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.derived.is_none() && self.derives.is_empty() && self.wanted_by.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{BranchNo, Dot};

    #[test]
    fn an_attribute_that_was_removed_is_told_from_one_that_does_not_decode() {
        let at = ValueRef { dot: Dot { branch: BranchNo(1), seq: 2 }, index: 3 };
        for value in [
            None,
            Some(XattrValue::Removed),
            Some(XattrValue::Set(ByteBuf::new())),
            Some(XattrValue::Set(vec![0, 255].into())),
        ] {
            let row = rmp_serde::to_vec(&Value { at, count: 4, value: value.clone() }).unwrap();
            let read: Value<XattrValue> = rmp_serde::from_slice(&row).unwrap();
            assert_eq!(read.value, value);
        }
    }
}
