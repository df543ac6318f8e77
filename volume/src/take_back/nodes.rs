//! What is taken back of a node as a whole: which of its registers, and whether it goes.

use crate::{
    commit::{ChangeKind, PlaceBody},
    error::Result,
    id::NodeId,
    namespace::places,
    node::{Ino, NodeKind},
    row::{Claim, Link, Node, NodeRow, Place, Value, Xattr},
    tree::next_tag,
    version::ValueRef,
};

use super::{AT_ONCE, Register, Run, Step, Touched, What};

impl Run<'_> {
    pub(super) fn node(&mut self, all: &[Touched], part: &[Touched]) -> Result<Vec<Step>> {
        let ino = part[0].ino;
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(Vec::new()) };
        let born = !node.born.is_empty() && node.born.iter().all(|at| self.theirs.have(*at));
        let directory = node.kind == NodeKind::Directory;
        if !self.is_below(ino, node, part)? {
            return Ok(Vec::new());
        }
        if born && !self.others_changed(ino, node, all)? {
            // Directories go last.
            return if directory { Ok(Vec::new()) } else { self.made(ino, node) };
        }
        let from = self.core.path_of(ino).unwrap_or_default();
        let mut step = Step {
            path: from.clone(),
            from: None,
            what: What::Stays,
            contents: false,
            attributes: false,
            contents_kept: false,
        };
        let mut more = Vec::new();
        let sets_times = !directory && part.iter().any(|touched| touched.register == Register::Meta);
        let times = if sets_times { self.times(ino, all)? } else { None };
        let times = times.filter(|(_, _, target, _)| !born || target.is_some());
        for register in part.chunk_by(|a, b| a.register == b.register) {
            let before: Vec<ValueRef> = register.iter().filter_map(|touched| touched.before).collect();
            match register[0].register {
                Register::Birth => {}
                Register::Place(link) => {
                    let Some((path, what)) = self.place(ino, link, &before, born)? else { continue };
                    if step.what == What::Stays {
                        (step.path, step.what) = (path, what);
                    } else {
                        more.push(Step {
                            path,
                            from: None,
                            what,
                            contents: false,
                            attributes: false,
                            contents_kept: false,
                        });
                    }
                }
                Register::Content => {
                    // What comes of it is told, not what is there once it is put back.
                    let shows = node.is_shown() || step.what != What::Stays;
                    step.contents_kept = shows && self.is_made_of_theirs(ino, &before)?;
                    step.contents = self.content(ino, &before, all, born)?;
                }
                Register::Access => step.attributes |= self.access(ino, &before)?,
                // With those of the entries that come and go.
                Register::Meta => {}
                Register::Xattr(tag) => step.attributes |= self.xattr(ino, NodeId::from_bytes(tag), &before, born)?,
            }
        }
        if let Some((live, shown, target, body)) = times {
            step.attributes |= self.put_meta(ino, &live, (shown, target), body)?;
        }
        if step.what == What::GoesBack && !from.is_empty() && from != step.path {
            step.from = Some(from);
        }
        if born && part.as_ptr() == all.as_ptr() && !directory {
            step.what = What::IsKept;
        }
        if step.what == What::Stays && step.contents_kept && !step.contents && !step.attributes {
            step.what = What::IsKept;
        }
        if step.what != What::Stays || step.contents || step.attributes {
            more.insert(0, step);
        }
        Ok(more)
    }

    /// Whether others changed what they made.
    fn others_changed(&mut self, ino: Ino, node: &Node, all: &[Touched]) -> Result<bool> {
        if all.iter().any(|touched| touched.before.is_some()) {
            return Ok(true);
        }
        let theirs = self.theirs;
        let other = |at: ValueRef| !theirs.have(at);
        let mut changed = node.content.iter().any(|v| other(v.at))
            || node.access.iter().any(|v| other(v.at))
            || node.meta.iter().any(|v| other(v.at));
        for shows in [true, false] {
            self.core.each_item::<Xattr>(ino, node, shows, |x| {
                changed |= x.values.iter().any(|v| other(v.at));
                !changed
            })?;
            self.core.each_item::<Link>(ino, node, shows, |link| {
                changed |= link.values.iter().any(|v| other(v.at) && matches!(v.value, Some(Place::In { .. })));
                !changed
            })?;
        }
        Ok(changed)
    }

    /// Takes away the names of what they made.
    fn made(&mut self, ino: Ino, node: &Node) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for link in self.core.shown_links(ino, node)? {
            let Some(shown) = &link.shown else { continue };
            let path = self.core.path_in(shown.parent, &shown.name);
            self.remove(node.id, &link)?;
            if steps.is_empty() {
                steps.push(Step {
                    path,
                    from: None,
                    what: What::IsRemoved,
                    contents: false,
                    attributes: false,
                    contents_kept: false,
                });
            }
            if steps.len() >= AT_ONCE {
                break;
            }
        }
        Ok(steps)
    }

    pub(super) fn remove(&mut self, child: NodeId, link: &Link) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let kind = ChangeKind::Removal { link: link.id, child, time: self.core.now() };
        self.core.emit::<PlaceBody>(kind, &places(link), None).map(drop)
    }

    /// Removes a directory that they made if nothing is in it; nothing when it stays.
    pub(super) fn made_directory(&mut self, ino: Ino) -> Result<Option<Step>> {
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(None) };
        let theirs = self.theirs;
        let born = node.born.iter().all(|at| theirs.have(*at));
        let Some(link) = node.links.first().filter(|link| born && link.shown.is_some()) else { return Ok(None) };
        let moved = |v: &Value<Place>| !theirs.have(v.at) && matches!(v.value, Some(Place::In { .. }));
        let changed = node.access.iter().any(|v| !theirs.have(v.at)) || link.values.iter().any(moved);
        if changed || !self.is_below(ino, node, &[])? || self.holds(ino)? {
            return Ok(None);
        }
        let path = self.core.path_of(ino).unwrap_or_default();
        self.remove(node.id, link)?;
        Ok(Some(Step {
            path,
            from: None,
            what: What::IsRemoved,
            contents: false,
            attributes: false,
            contents_kept: false,
        }))
    }

    /// What is told of a directory that they made and that stays.
    pub(super) fn still_there(&mut self, ino: Ino) -> Result<Option<Step>> {
        let row = self.core.row(ino)?;
        let Some(NodeRow::Node(node)) = row.as_deref() else { return Ok(None) };
        let born = node.born.iter().all(|at| self.theirs.have(*at));
        if !born || !node.is_shown() || !self.is_below(ino, node, &[])? {
            return Ok(None);
        }
        let path = self.core.path_of(ino).unwrap_or_default();
        Ok(Some(Step {
            path,
            from: None,
            what: What::IsKept,
            contents: false,
            attributes: false,
            contents_kept: false,
        }))
    }

    /// Whether something shows in just this directory, not in those that it shows with.
    fn holds(&mut self, ino: Ino) -> Result<bool> {
        let home = self.core.canonical(ino)?;
        let mut from = [0; 16];
        loop {
            let entries = self.core.scan_entries(home, &from, AT_ONCE)?;
            let Some((last, _)) = entries.last() else { return Ok(false) };
            // What of theirs is still there in a dry run would be gone.
            let (theirs, dry_run) = (self.theirs, self.dry_run);
            let stays = |claim: &Claim| claim.parent == ino && !(dry_run && theirs.have(claim.at));
            if entries.iter().any(|(_, entry)| entry.claims.iter().any(stays)) {
                return Ok(true);
            }
            match next_tag(*last) {
                Some(next) => from = next,
                None => return Ok(false),
            }
        }
    }

    /// Whether a node, or a place that it had, is where things are to be taken back.
    pub(super) fn is_below(&mut self, ino: Ino, node: &Node, part: &[Touched]) -> Result<bool> {
        let Some(below) = self.below.as_deref_mut() else { return Ok(true) };
        if below.nodes.contains(&ino) {
            return Ok(true);
        }
        let shown = self.core.first_shown(ino, node)?.and_then(|link| link.shown.clone());
        let mut parents: Vec<Ino> = shown.into_iter().map(|shown| shown.parent).collect();
        for touched in part {
            if let (Register::Place(_), Some(before)) = (touched.register, touched.before)
                && let Some(place) = self.core.past_place(before)?
            {
                parents.push(place.parent);
            }
        }
        for parent in parents {
            if below.holds(self.core, parent)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
