//! Who has a content that isn't here: what is known, and what was only said.

use std::collections::BTreeMap;

use crypto::DeviceId;

use crate::{
    Volume,
    commit::encode,
    core::{Core, decode_row},
    error::{Error, Result},
    history::is_past,
    node::Ino,
    row::NodeRow,
    store::{Batch, Space, prefix_end},
    time::Timestamp,
};

const HOLDS_PREFIX: &[u8] = b"holds/";

/// Of a file whose content isn't wholly here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// Its path from the volume's root, by its first name; `None` for what has none.
    pub path: Option<Vec<u8>>,
    /// Whether it is looked at as it was.
    pub past: bool,
    /// When the version was made, by its author's clock.
    pub made: Timestamp,
    /// The device that made it: it had all of it then.
    pub author: DeviceId,
    /// Other devices that have said to have all contents of what they knew, this one among them.
    pub complete: Vec<DeviceId>,
}

/// Up to which arrival here each device has said to have all contents.
#[derive(Default)]
pub(crate) struct Complete {
    up_to: BTreeMap<DeviceId, u64>,
    /// Those that aren't stored yet.
    unsaved: BTreeMap<DeviceId, u64>,
}

impl Core {
    /// Reads what devices have said before.
    pub(crate) fn load_complete(&mut self) -> Result<()> {
        for (key, bytes) in self.store.scan(Space::Meta, HOLDS_PREFIX, &prefix_end(HOLDS_PREFIX), usize::MAX)? {
            let device = key.get(HOLDS_PREFIX.len()..).and_then(|bytes| DeviceId::try_from(bytes).ok());
            let device = device.ok_or_else(|| Error::damaged("what a device said to have"))?;
            self.complete.up_to.insert(device, decode_row("what a device said to have", &bytes)?);
        }
        Ok(())
    }

    /// A device that knows just what is known here says to have all contents of it.
    pub(crate) fn said_complete(&mut self, device: DeviceId) {
        let arrival = self.next_arrival - 1;
        self.complete.up_to.insert(device, arrival);
        self.complete.unsaved.insert(device, arrival);
    }

    /// Stores what was said since the last time.
    pub(crate) fn save_complete(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        for (device, arrival) in std::mem::take(&mut self.complete.unsaved) {
            self.store.put(&mut batch, Space::Meta, [HOLDS_PREFIX, device.as_bytes()].concat(), &encode(&arrival));
        }
        if batch.is_empty() { Ok(()) } else { self.store.apply(batch) }
    }

    fn holders(&mut self, ino: Ino, past: bool) -> Result<Holders> {
        let (of, shown) = match self.row(ino)?.as_deref() {
            Some(NodeRow::View { of, value, .. }) => (*of, Some(*value)),
            _ => (ino, None),
        };
        let newest = self.with_node(of, |node| node.content.last().map(|value| value.at))?;
        let at = shown.or(newest).ok_or(Error::NotFound)?;
        let author = self.branch_of(at.dot)?.device;
        if self.is_pending(at.dot) {
            return Ok(Holders { path: self.path_of(ino), past, made: self.now(), author, complete: Vec::new() });
        }
        let row = self.commit_row(at.dot)?.ok_or_else(|| Error::damaged("a commit is missing"))?;
        let others = self.complete.up_to.iter().filter(|(id, up_to)| **id != author && **up_to >= row.arrival);
        let complete = others.map(|(id, _)| *id).collect();
        Ok(Holders { path: self.path_of(ino), past, made: self.written(&row)?, author, complete })
    }
}

impl Volume {
    /// Who has the content that a file shows, as far as this device knows. Nobody is asked.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the disk failed.
    pub fn holders(&self, ino: Ino) -> Result<Holders> {
        self.reading(ino, |core, node, _| core.holders(node, is_past(ino)))
    }
}
