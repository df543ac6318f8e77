//! What a random replica may do. Indices wrap modulo what exists, so that every shrunk sequence still means something.

use proptest::prelude::*;

/// Names that collide often.
pub const NAMES: [&str; 4] = ["a", "b", "c", "a.txt"];

/// One step; `r` is the replica that takes it.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Makes a directory.
    Mkdir { r: u8, dir: u8, name: u8 },
    /// Creates or truncates, writes, closes.
    Write { r: u8, dir: u8, name: u8 },
    /// Opens what is there, replaces it, closes.
    Overwrite { r: u8, file: u8 },
    /// Adds to what is there and closes.
    Append { r: u8, file: u8 },
    /// Opens for appending and stays open.
    Open { r: u8, file: u8 },
    /// Appends through an open handle; what was written is flushed.
    WriteOpen { r: u8, handle: u8 },
    /// Closes an open handle.
    Close { r: u8, handle: u8 },
    /// unlink, or rmdir of an empty directory.
    Remove { r: u8, entry: u8 },
    /// rm -r.
    RemoveTree { r: u8, entry: u8 },
    /// Gives an entry a name from the alphabet, replacing what has it.
    Rename { r: u8, entry: u8, dir: u8, name: u8 },
    /// Moves a directory into another one.
    Nest { r: u8, which: u8, into: u8, name: u8 },
    /// Moves an entry over another.
    RenameOver { r: u8, entry: u8, other: u8 },
    /// Swaps two entries.
    Exchange { r: u8, entry: u8, other: u8 },
    /// A hard link, or several beside each other.
    Link { r: u8, file: u8, dir: u8, name: u8, many: bool },
    /// A symbolic link.
    Symlink { r: u8, dir: u8, name: u8 },
    /// chmod.
    Chmod { r: u8, entry: u8, mode: u8 },
    /// utimens.
    Utimens { r: u8, entry: u8, secs: u8 },
    /// Sets an extended attribute, or removes it.
    Xattr { r: u8, entry: u8, name: u8, value: u8 },
    /// `p2pfs resolve`: keeps one of those that are in conflict, or all.
    Resolve { r: u8, which: u8, keep: u8 },
    /// Sets a setting of the volume, or puts it back to its default.
    Set { r: u8, name: u8, value: u8 },
    /// Makes a snapshot.
    Snapshot { r: u8, name: u8 },
    /// Removes one.
    Drop { r: u8, which: u8 },
    /// Dies and comes back.
    Restart { r: u8 },
    /// Ends the pending commit.
    Cut { r: u8 },
    /// Two replicas tell each other everything.
    Sync { r: u8, with: u8 },
    /// Two connected replicas exchange some of what they have to say.
    Trickle { r: u8, with: u8, messages: u8 },
    /// Commits that were sent at some time, by whomever, arrive here in a bad order.
    Gossip { r: u8, from: u8, count: u8, reverse: bool },
}

/// Steps that act on names and contents, and now and then one that carries them elsewhere.
pub fn op(replicas: u8) -> impl Strategy<Value = Op> {
    let r = move || 0..replicas;
    let (dir, name, entry) = (|| 0u8..4, || 0..NAMES.len() as u8, || 0u8..8);
    prop_oneof![
        4 => (r(), dir(), name()).prop_map(|(r, dir, name)| Op::Mkdir { r, dir, name }),
        4 => (r(), dir(), name()).prop_map(|(r, dir, name)| Op::Write { r, dir, name }),
        2 => (r(), entry()).prop_map(|(r, file)| Op::Overwrite { r, file }),
        2 => (r(), entry()).prop_map(|(r, file)| Op::Append { r, file }),
        1 => (r(), entry()).prop_map(|(r, file)| Op::Open { r, file }),
        2 => (r(), 0u8..2).prop_map(|(r, handle)| Op::WriteOpen { r, handle }),
        1 => (r(), 0u8..2).prop_map(|(r, handle)| Op::Close { r, handle }),
        3 => (r(), entry()).prop_map(|(r, entry)| Op::Remove { r, entry }),
        1 => (r(), entry()).prop_map(|(r, entry)| Op::RemoveTree { r, entry }),
        5 => (r(), entry(), dir(), name()).prop_map(|(r, entry, dir, name)| Op::Rename { r, entry, dir, name }),
        2 => (r(), entry(), entry()).prop_map(|(r, entry, other)| Op::RenameOver { r, entry, other }),
        3 => (r(), entry(), entry()).prop_map(|(r, entry, other)| Op::Exchange { r, entry, other }),
        4 => (r(), 0u8..6, 0u8..6, name()).prop_map(|(r, which, into, name)| Op::Nest { r, which, into, name }),
        2 => (r(), entry(), dir(), name(), any::<bool>())
            .prop_map(|(r, file, dir, name, many)| Op::Link { r, file, dir, name, many }),
        1 => (r(), dir(), name()).prop_map(|(r, dir, name)| Op::Symlink { r, dir, name }),
        1 => (r(), entry(), 0u8..8).prop_map(|(r, entry, mode)| Op::Chmod { r, entry, mode }),
        1 => (r(), entry(), 0u8..4).prop_map(|(r, entry, secs)| Op::Utimens { r, entry, secs }),
        2 => (r(), entry(), 0u8..8, 0u8..3).prop_map(|(r, entry, name, value)| Op::Xattr { r, entry, name, value }),
        2 => (r(), 0u8..4, 0u8..6).prop_map(|(r, which, keep)| Op::Resolve { r, which, keep }),
        1 => (0u8..2, 0u8..2, 0u8..4).prop_map(|(r, name, value)| Op::Set { r, name, value }),
        1 => (r(), name()).prop_map(|(r, name)| Op::Snapshot { r, name }),
        1 => (r(), entry()).prop_map(|(r, which)| Op::Drop { r, which }),
        1 => r().prop_map(|r| Op::Restart { r }),
        2 => r().prop_map(|r| Op::Cut { r }),
        6 => (r(), r()).prop_map(|(r, with)| Op::Sync { r, with }),
        4 => (r(), r(), 1u8..4).prop_map(|(r, with, messages)| Op::Trickle { r, with, messages }),
        2 => (r(), any::<u8>(), 1u8..6, any::<bool>()).prop_map(|(r, from, count, reverse)| Op::Gossip { r, from, count, reverse }),
    ]
}
