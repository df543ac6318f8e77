//! Brings what is in a directory in line, once other users than before may look into it.
//!
//! A node's readers are those of its own mode and ACL who can come to it ([`crate::rights`]). When a directory opens to
//! somebody, or closes, everything below follows: each device does that for the nodes of its own user, a few at a time
//! beside other work. Directories that are still to do are rows of the store, so that a restart loses none.

use crate::{
    Volume,
    core::{Core, decode_row},
    error::{Error, Result},
    node::{Ino, NodeKind},
    row::NodeRow,
    store::{Space, prefix_end},
    tree::next_tag,
};

/// Of directories that are to be gone through; the value is the tag of the entry to go on from.
const UNALIGNED: &[u8] = b"unaligned/";
/// Entries at a time: other calls wait no longer.
const AT_ONCE: usize = 64;

fn key(ino: Ino) -> Vec<u8> {
    [UNALIGNED, &ino.0.to_be_bytes()].concat()
}

impl Core {
    /// Notes, with what the running call changes, that a directory is to be gone through.
    pub(crate) fn mark_unaligned(&mut self, ino: Ino) {
        self.store.put(&mut self.overlay.batch, Space::Meta, key(ino), &crate::commit::encode(&[0_u8; 16]));
        self.has_unaligned = true;
    }

    /// Notes that a node is to be brought in line once more: two who did that apart from each other may have known different
    /// permissions of the directories above, and only who may by both may.
    pub(crate) fn mark_directories_of(&mut self, ino: Ino) -> Result<()> {
        let row = self.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(()) };
        for link in self.shown_links(ino, node)? {
            if let Some(shown) = &link.shown {
                let directory = self.canonical(shown.parent)?;
                self.mark_unaligned(directory);
            }
        }
        Ok(())
    }

    /// Looks whether an earlier run left something to do.
    pub(crate) fn load_unaligned(&mut self) -> Result<()> {
        self.has_unaligned = self.first_unaligned()?.is_some();
        Ok(())
    }

    fn first_unaligned(&self) -> Result<Option<(Ino, [u8; 16])>> {
        let rows = self.store.scan(Space::Meta, UNALIGNED, &prefix_end(UNALIGNED), 1)?;
        let Some((key, from)) = rows.first() else { return Ok(None) };
        let number = key[UNALIGNED.len()..].try_into().map_err(|_| Error::damaged("a mark of a directory"))?;
        Ok(Some((Ino(u64::from_be_bytes(number)), decode_row("a mark of a directory", from)?)))
    }

    /// Goes on with one directory. Tells whether there was one.
    fn align_some(&mut self) -> Result<bool> {
        let Some((ino, from)) = self.first_unaligned()? else {
            self.has_unaligned = false;
            return Ok(false);
        };
        let is_directory = self.with_node(ino, |n| n.kind == NodeKind::Directory).unwrap_or(false);
        let mut next = None;
        if is_directory && self.may_change().is_ok() {
            let home = self.canonical(ino)?;
            let entries = self.scan_entries(home, &from, AT_ONCE)?;
            next = entries.last().and_then(|(tag, _)| next_tag(*tag));
            for claim in entries.iter().flat_map(|(_, entry)| entry.claims.clone()) {
                match self.follow_path(claim.child) {
                    // Somebody else's doing: theirs follows by itself.
                    Ok(_) | Err(Error::Denied | Error::NotPermitted) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        match next {
            Some(tag) => {
                let row = crate::commit::encode(&tag);
                self.store.put(&mut self.overlay.batch, Space::Meta, key(ino), &row);
            }
            None => self.overlay.batch.remove(Space::Meta, key(ino)),
        }
        Ok(true)
    }
}

impl Volume {
    /// A step of bringing nodes in line with their directories; tells whether there may be more to do.
    pub(crate) fn align_some(&self) -> bool {
        if !self.inner.core.lock().has_unaligned {
            return false;
        }
        match self.beside_the_mount(Core::align_some) {
            Ok(more) => more,
            Err(e) => {
                log::error!("what lies in a directory could not be brought in line with it yet: {e}");
                false
            }
        }
    }

    /// Directories below which nodes are still to be brought in line with them.
    ///
    /// # Errors
    /// The disk failed.
    pub fn unaligned(&self) -> Result<usize> {
        let core = self.inner.core.lock();
        if !core.has_unaligned {
            return Ok(0);
        }
        Ok(core.store.raw().scan(Space::Meta, UNALIGNED, &prefix_end(UNALIGNED), usize::MAX)?.len())
    }
}
