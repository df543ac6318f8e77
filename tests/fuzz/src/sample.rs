//! A small volume with a little of everything in it, of which the seeds are made: two members, a conflict, files of all
//! sizes, links, attributes, an access list, a synced draft.

use std::{collections::BTreeMap, sync::Arc};

use crypto::{DeviceKeys, SeededEntropy, SymmetricKey};
use p2pfs_volume::{
    Caller, Ino, Message, NewNode, OpenMode, Role, SetXattr, commit::ClaimedCommit, sealed_store::SealedStore,
    store::{Space, Store},
};

use crate::common::{Replica, sync};

const ADA: u64 = 1;
const BOB: u64 = 2;

/// The member whose store is looked at, and another one.
pub(crate) struct Sample {
    pub(crate) ada: Replica,
    pub(crate) bob: Replica,
}

/// A valid access list with a named user.
pub(crate) fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 6, 1000), (4, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 4, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&bits.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

impl Sample {
    pub(crate) fn new() -> Self {
        let ada = Replica::founder("ada", ADA);
        let bob = Replica::joined("bob", BOB, &ada, Role::Writer);
        furnish(&ada).expect("calls on a volume in memory succeed");
        ada.volume.set_setting("history.daily", Some("2y")).expect("the owner may");
        ada.volume.create_snapshot("before").expect("there is none of that name");
        sync(&ada, &bob);
        for (replica, text) in [(&ada, "one"), (&bob, "another")] {
            replica.write("notes.txt", text.as_bytes()).expect("a file can be written");
        }
        sync(&ada, &bob);
        let handle = ada.open_to_write("synced").expect("a file can be made");
        ada.volume.write(handle, 3, b"not closed", &Caller::default()).expect("it can be written");
        ada.volume.fsync(handle).expect("and synced");
        Self { ada, bob }
    }

    /// The store of the first member, opened.
    pub(crate) fn store(&self) -> SealedStore {
        let secret = SymmetricKey::generate(&SeededEntropy::new(ADA));
        SealedStore::new(self.ada.store.clone(), &secret, Arc::new(SeededEntropy::new(9)))
    }

    /// The keys of the second member's device.
    pub(crate) fn bob_keys() -> DeviceKeys {
        let entropy = SeededEntropy::new(BOB);
        let _secret = SymmetricKey::generate(&entropy);
        DeviceKeys::generate(&entropy)
    }

    /// All rows as they lie on the disk.
    pub(crate) fn raw_rows(&self) -> Vec<(Space, Vec<u8>, Vec<u8>)> {
        let all = |space: Space| self.ada.store.scan(space, &[], &[], usize::MAX).expect("memory can be read");
        Space::ALL.into_iter().flat_map(|space| all(space).into_iter().map(move |(k, v)| (space, k, v))).collect()
    }

    /// All rows of a sealed space, opened.
    pub(crate) fn opened(&self, space: Space) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.store().scan(space, &[], &[], usize::MAX).expect("the sample's rows open")
    }

    /// Everything that the first member tells a new one, message by message.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let session = self.ada.volume.session(self.bob.device_id());
        let mut messages = session.opening();
        session.receive(Message::Tips(Vec::new())).expect("no tips are an honest message");
        while let Some(message) = session.next_outgoing() {
            messages.push(message);
        }
        messages
    }

    pub(crate) fn commits(&self) -> Vec<ClaimedCommit> {
        let commits = self.messages().into_iter().filter_map(|message| match message {
            Message::Commits(commits) => Some(commits),
            _ => None,
        });
        commits.flatten().collect()
    }

    /// Heads of changes, one of each kind.
    pub(crate) fn heads(&self) -> Vec<Vec<u8>> {
        let mut kinds = BTreeMap::new();
        for change in self.commits().into_iter().flat_map(|commit| commit.changes) {
            // call, then a map of one pair whose key is the kind's letter.
            kinds.entry(change.head.get(4).copied()).or_insert(change.head);
        }
        kinds.into_values().collect()
    }
}

fn furnish(at: &Replica) -> p2pfs_volume::Result<()> {
    let who = Caller::default();
    at.mkdir("work")?;
    at.mkdir("work/inner")?;
    at.mkdir("gone")?;
    at.rmdir("gone")?;
    at.write("notes.txt", b"begun")?;
    at.write("work/large.bin", &[7; 70_000])?;
    at.link("notes.txt", "work/inner/again")?;
    at.rename("work/large.bin", "work/inner/moved.bin")?;
    at.volume.make(Ino::ROOT, b"link", NewNode::Symlink(b"work/inner"), 0, &who)?;
    at.volume.make(Ino::ROOT, b"pipe", NewNode::Fifo, 0o600, &who)?;
    let notes = at.find("notes.txt")?;
    at.volume.set_xattr(notes, b"user.tag", b"red", SetXattr::Any, &who)?;
    at.volume.set_xattr(at.find("work")?, b"system.posix_acl_default", &acl(), SetXattr::Any, &who)?;
    let sparse = OpenMode { write: true, ..OpenMode::default() };
    let (_, handle) = at.volume.create(Ino::ROOT, b"sparse", 0o644, sparse, true, &who)?;
    at.volume.write(handle, 300_000, b"end", &who)?;
    at.close(handle)
}
