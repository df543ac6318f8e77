//! The bins of file managers, where modes decide who may what.
//!
//! The freedesktop trash specification has a bin `.Trash-UID` at the top of a disk, made for one account by its number, with a
//! note `info/NAME.trashinfo` of where `files/NAME` was. Members whose accounts have one number share a bin: its folders are
//! open to members, and what is in it stays closed to whom it was closed where it was. So does its note, which holds a path.

use crate::{
    core::Core,
    error::Result,
    namespace::set_mode,
    node::{Ino, NodeKind},
    rights::Readers,
    row::Node,
};

/// What a bin's folder holds that describes what is in it.
const NOTES: &[u8] = b"info";
const FILES: &[u8] = b"files";
const NOTE_SUFFIX: &[u8] = b".trashinfo";

/// A place in a bin that has a mode of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinPlace {
    /// The bin.
    Bin,
    /// A folder right in it.
    Folder,
    /// What tells where something was.
    Note,
    /// What was put into it.
    Thing,
}

impl BinPlace {
    /// The mode of what is made there, where a program asks for this one.
    pub(crate) fn mode(self, asked: u16) -> u16 {
        match self {
            BinPlace::Bin | BinPlace::Folder => asked | asked >> 3 & 0o070,
            // Until it is known whose thing it describes.
            BinPlace::Note => asked & !0o077,
            BinPlace::Thing => asked,
        }
    }
}

/// Whether this is the name of a bin at the top.
fn is_bin(name: &[u8]) -> bool {
    name.strip_prefix(b".Trash-").is_some_and(|uid| !uid.is_empty() && uid.iter().all(u8::is_ascii_digit))
}

impl Core {
    /// What a `kind` of that name is for a bin.
    pub(crate) fn bin_place(&mut self, directory: Ino, name: &[u8], kind: NodeKind) -> Result<Option<BinPlace>> {
        let is_folder = kind == NodeKind::Directory;
        if directory == Ino::ROOT {
            return Ok((is_folder && is_bin(name)).then_some(BinPlace::Bin));
        }
        let Some((above, directory_name)) = self.folder_place(directory)? else { return Ok(None) };
        if above == Ino::ROOT {
            return Ok((is_folder && is_bin(&directory_name)).then_some(BinPlace::Folder));
        }
        let place = match &*directory_name {
            NOTES => BinPlace::Note,
            FILES => BinPlace::Thing,
            _ => return Ok(None),
        };
        Ok(self.is_bin_at(above)?.then_some(place))
    }

    /// What a node is for a bin.
    pub(crate) fn bin_place_of(&mut self, node: &Node) -> Result<Option<BinPlace>> {
        let shown = node.links.first().and_then(|link| link.shown.as_ref());
        let Some((parent, name)) = shown.map(|shown| (shown.parent, shown.name.clone())) else { return Ok(None) };
        let parent = self.canonical(parent)?;
        self.bin_place(parent, &name, node.kind)
    }

    /// Opens the note of what was just moved to `files/NAME` in a bin, if members may read what it describes.
    pub(crate) fn open_note(&mut self, moved: Ino, to: Ino, name: &[u8]) -> Result<()> {
        if self.local_uid.is_none() {
            return Ok(());
        }
        let Some((bin, folder)) = self.folder_place(to)? else { return Ok(()) };
        if &*folder != FILES || !self.is_bin_at(bin)? {
            return Ok(());
        }
        let Some((notes, NodeKind::Directory)) = self.entry(bin, NOTES)?.shown() else { return Ok(()) };
        let notes = self.canonical(notes)?;
        let Some((note, NodeKind::File)) = self.entry(notes, &[name, NOTE_SUFFIX].concat())?.shown() else {
            return Ok(());
        };
        let is_open = |n: &Node| n.shown_access().is_some_and(|access| access.rights().readers() == Readers::Members);
        if self.with_node(moved, is_open)? && self.may_own(note)? {
            self.change_access(note, None, |access, _| set_mode(access, access.mode | access.mode >> 3 & 0o070))?;
        }
        Ok(())
    }

    fn is_bin_at(&mut self, directory: Ino) -> Result<bool> {
        Ok(self.folder_place(directory)?.is_some_and(|(above, name)| above == Ino::ROOT && is_bin(&name)))
    }

    /// Where a directory shows.
    fn folder_place(&mut self, directory: Ino) -> Result<Option<(Ino, Vec<u8>)>> {
        let shown = self.with_node(directory, |n| {
            n.links.first().and_then(|link| link.shown.as_ref()).map(|shown| (shown.parent, shown.name.to_vec()))
        })?;
        shown.map(|(above, name)| Ok((self.canonical(above)?, name))).transpose()
    }
}
