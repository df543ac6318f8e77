//! Where things are: the paths that people read in messages, reports and the audit log.
//!
//! Every entry of the log has one, so those of directories are kept. Invariant: a kept path is what [`Core::path_of`] would
//! find anew. Whatever may change one, a directory's row or a name that several want, forgets all ([`Core::forget_paths`]).

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use crate::{
    core::{Core, Overlay},
    node::{Ino, NodeKind},
    row::{Entry, Node, NodeRow, Shown},
};

/// Directories whose paths are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Longer ones, in bytes, are found anew each time, and told by their end.
const LONGEST: usize = 4096;
/// No path has more names: the records make a circle.
const DEEPEST: usize = 65_536;

/// Paths of directories.
pub(crate) struct Paths(LruCache<Ino, Arc<[u8]>>);

impl Default for Paths {
    fn default() -> Self {
        Self(LruCache::new(KEPT))
    }
}

impl Core {
    /// The path of an inode from the volume's root, by its first name; `None` for what has none.
    pub(crate) fn path_of(&mut self, ino: Ino) -> Option<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = self.thing(ino);
        while at != Ino::ROOT {
            let (directory, name) = self.first_name(at)?;
            names.push(name);
            at = directory;
            if names.len() > DEEPEST {
                return None;
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// The same of something, or of a name in it, with the help of what is kept.
    pub(crate) fn path_told(&mut self, ino: Ino, name: Option<&[u8]>) -> Option<Vec<u8>> {
        let Some(name) = name else {
            let at = self.thing(ino);
            if at == Ino::ROOT {
                return Some(Vec::new());
            }
            let (directory, name) = self.first_name(at)?;
            return self.path_told(directory, Some(&name));
        };
        let directory = self.directory_path(ino)?;
        let directory = &directory[directory.len().saturating_sub(LONGEST)..];
        if directory.is_empty() {
            return Some(name.to_vec());
        }
        let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
        path.extend_from_slice(directory);
        path.push(b'/');
        path.extend_from_slice(name);
        Some(path)
    }

    fn directory_path(&mut self, directory: Ino) -> Option<Arc<[u8]>> {
        // In the past, and in the midst of a change, other names hold.
        if self.past.is_some() || !self.overlay.nodes.is_empty() || !self.overlay.entries.is_empty() {
            return self.path_of(directory).map(Into::into);
        }
        if let Some(path) = self.paths.0.get(&directory) {
            return Some(path.clone());
        }
        let path: Arc<[u8]> = self.path_of(directory)?.into();
        if path.len() <= LONGEST {
            self.paths.0.put(directory, path.clone());
        }
        Some(path)
    }

    /// What is asked about, behind a version of it that shows beside.
    fn thing(&mut self, ino: Ino) -> Ino {
        match self.row(ino).ok().flatten().as_deref() {
            Some(NodeRow::View { of, .. }) => *of,
            _ => ino,
        }
    }

    /// The directory something is in, and its name there.
    fn first_name(&mut self, at: Ino) -> Option<(Ino, Vec<u8>)> {
        let at = self.canonical(at).ok()?;
        let row = self.row(at).ok().flatten()?;
        let NodeRow::Node(node) = &*row else { return None };
        let link = self.first_shown(at, node).ok().flatten()?;
        let shown = link.shown.as_ref()?;
        Some((shown.parent, self.name_shown(at, shown)))
    }

    /// The name under which a link shows: beside the one it claims, if that is taken.
    fn name_shown(&mut self, ino: Ino, shown: &Shown) -> Vec<u8> {
        let beside = self.canonical(shown.parent).and_then(|directory| {
            let entry = self.entry(directory, &shown.name)?;
            if entry.claims.first().is_none_or(|claim| claim.child == ino) {
                return Ok(None);
            }
            for name in &entry.derives {
                if self.entry(directory, name)?.derived.as_ref().is_some_and(|derived| derived.ino == ino) {
                    return Ok(Some(name.to_vec()));
                }
            }
            Ok(None)
        });
        // Where records are damaged, the name it claims says most.
        beside.ok().flatten().unwrap_or_else(|| shown.name.clone())
    }

    /// Forgets the kept paths if what is about to be stored may change one.
    pub(crate) fn forget_paths(&mut self, overlay: &Overlay) {
        if self.paths.0.is_empty() {
            return;
        }
        let row_matters = |(ino, new): (&Ino, &Option<Arc<NodeRow>>)| {
            let old = self.nodes.peek(ino).and_then(|row| row.as_deref());
            match (old, new.as_deref()) {
                (Some(NodeRow::Node(old)), Some(NodeRow::Node(new))) => {
                    new.kind == NodeKind::Directory && !is_where_it_was(old, new)
                }
                (Some(NodeRow::Node(node)), None) | (None, Some(NodeRow::Node(node))) => {
                    node.kind == NodeKind::Directory
                }
                _ => true,
            }
        };
        let name_matters = |(key, new): (&(Ino, [u8; 16]), &Arc<Entry>)| {
            is_wanted_by_many(new) || self.entries.peek(key).is_none_or(|old| is_wanted_by_many(old))
        };
        if overlay.nodes.iter().any(row_matters)
            || overlay.entries.iter().any(name_matters)
            || !overlay.links.is_empty()
        {
            self.paths.0.clear();
        }
    }
}

fn is_where_it_was(old: &Node, new: &Node) -> bool {
    let shown = |node: &Node| node.links.iter().map(|link| link.shown.clone()).collect::<Vec<_>>();
    shown(old) == shown(new)
        && old.merged_into == new.merged_into
        && old.merged == new.merged
        && old.hung_at == new.hung_at
}

fn is_wanted_by_many(entry: &Entry) -> bool {
    entry.claims.len() > 1 || entry.derived.is_some() || !entry.derives.is_empty()
}
