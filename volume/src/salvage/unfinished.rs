//! What was under way in a damaged store: changes that no commit holds yet, and drafts.
//!
//! The changes were made under the number that the next commit of this device's log would have had; their ids and seals
//! hang on it. So they are signed as that commit, unless the number is known to be used: nothing of it was ever sent.

use std::collections::BTreeSet;

use crypto::Label;

use crate::{
    apply::Received,
    commit::{ClaimedCommit, FORMAT_VERSION, Head, Header, MAX_CHANGES, RawChange, changes_root, encode},
    content::Draft,
    core::{Core, node_id_key},
    error::{Error, Result},
    id::{CommitHash, NodeId},
    node::Ino,
    record,
    row::NodeRow,
    sealed_store::SealedStore,
    store::{Space, prefix_end},
    time::Timestamp,
    version::{BranchNo, Dot, ValueRef},
};

use super::{Old, PAGE, Salvaged, new_dot};

/// Takes what is under way in `old` into the new store, once the commits are there.
pub(super) fn salvage(core: &mut Core, old: &Old, salvaged: &mut Salvaged) -> Result<()> {
    let Some(store) = &old.store else { return Ok(()) };
    let me = core.device.id();
    let own: BTreeSet<BranchNo> = old.logs.iter().filter(|(_, (device, _))| *device == me).map(|(no, _)| *no).collect();
    for branch in own {
        salvaged.commits += pending(core, old, store, branch)?;
    }
    for ino in Draft::drafts_present(store).unwrap_or_default() {
        match draft(core, old, store, Ino(ino)) {
            Ok(()) => {}
            Err(Error::Damaged(what)) => log::error!("inode {ino}: what was synced and not published is lost: {what}"),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Signs the changes that lie behind the last commit of an own branch. Returns how many commits that made.
fn pending(core: &mut Core, old: &Old, store: &SealedStore, branch: BranchNo) -> Result<u64> {
    let Some(&(device, log)) = old.logs.get(&branch) else { return Ok(0) };
    let prefix = branch.0.to_be_bytes();
    let last = store.raw().last(Space::Commits, &prefix, &prefix_end(&prefix)).ok().flatten();
    let known = last.and_then(|(key, _)| Dot::from_key(&key)).map_or(0, |dot| dot.seq);
    let mut made = 0;
    loop {
        let here = core.branches_of(&device, log).iter().map(|no| core.branch(*no)).max_by_key(|branch| branch.tip);
        let (tip, prev) = here.map_or((0, CommitHash::ZERO), |branch| (branch.tip, branch.tip_hash));
        let changes = changes(store, Dot { branch, seq: tip.max(known) + 1 });
        if changes.is_empty() {
            return Ok(made);
        }
        if tip < known {
            log::error!("{} changes that were in no commit are lost: they follow a lost one", changes.len());
            return Ok(made);
        }
        // Under the log that this device goes on with: the number here is for these changes.
        core.join_frontier()?;
        let prev_dot = core.dot_of(&prev)?;
        let observed: Vec<Dot> = core.frontier.iter().copied().filter(|dot| Some(*dot) != prev_dot).collect();
        let (mut count, mut hashes) = (0, Vec::with_capacity(observed.len()));
        for dot in prev_dot.iter().chain(&observed) {
            let info = core.commit_info(*dot)?;
            count = count.max(info.count);
            if Some(*dot) != prev_dot {
                hashes.push(info.hash);
            }
        }
        hashes.sort_unstable();
        let header = Header {
            version: FORMAT_VERSION,
            volume: core.volume,
            device,
            log,
            seq: tip + 1,
            prev,
            observed: hashes,
            count: count + 1,
            time: core.now(),
            root: changes_root(changes.iter()),
            changes: changes.len() as u32,
        };
        let header = encode(&header);
        let signature = core.device.signing.sign(Label::CommitSignature, &header);
        let claimed = ClaimedCommit { header, signature, changes };
        let commit = claimed.check().map_err(|e| Error::damaged(e.to_string()));
        let received = commit.and_then(|mut commit| core.receive(&mut commit));
        match received {
            Ok(Received::Applied) => made += 1,
            Ok(Received::Known | Received::Missing(_)) => return Ok(made),
            Err(Error::Refused(why) | Error::Damaged(why)) => {
                log::error!("changes that were in no commit are lost: {why}");
                return Ok(made);
            }
            Err(e) => return Err(e),
        }
    }
}

/// The changes under a number, up to the first that can't be read; no call in part.
fn changes(store: &SealedStore, dot: Dot) -> Vec<RawChange> {
    let key = dot.key();
    let rows = match store.raw().scan(Space::Changes, &key, &prefix_end(&key), MAX_CHANGES + 1) {
        Ok(rows) => rows,
        // One by one, up to where it can be read.
        Err(_) => (0..MAX_CHANGES as u32)
            .map_while(|index| {
                let key = ValueRef { dot, index }.key();
                Some((key.to_vec(), store.raw().get(Space::Changes, &key).ok()??))
            })
            .collect(),
    };
    let mut changes: Vec<(u32, RawChange)> = Vec::with_capacity(rows.len());
    let mut whole = true;
    for (index, (key, bytes)) in rows.iter().enumerate() {
        let in_place = ValueRef::from_key(key).is_some_and(|at| at.index as usize == index);
        let change: Option<RawChange> = rmp_serde::from_slice(bytes).ok().filter(|_| in_place);
        let head = change.as_ref().and_then(|change| rmp_serde::from_slice::<Head>(&change.head).ok());
        let Some((change, head)) = change.zip(head) else {
            whole = false;
            break;
        };
        changes.push((head.call, change));
    }
    if !whole && let Some(last) = changes.last().map(|(call, _)| *call) {
        changes.retain(|(call, _)| *call < last);
    }
    changes.into_iter().map(|(_, change)| change).collect()
}

/// Puts a draft into the new store, to be published when the volume is opened.
fn draft(core: &mut Core, old: &Old, store: &SealedStore, ino: Ino) -> Result<()> {
    let node = node_of(store, ino).ok_or_else(|| Error::damaged("its file is not known"))?;
    let file = core.ino_of_node(&node)?.ok_or_else(|| Error::damaged("its file is lost"))?;
    let to = core.store.clone();
    Draft::copy_log(ino.0, store, file.0, &to, |header| {
        let (seen, mtime): (Vec<ValueRef>, Timestamp) = rmp_serde::from_slice(header).ok()?;
        // What is not known any more can't be hidden by it either.
        let seen: Vec<ValueRef> = seen
            .into_iter()
            .filter_map(|value| Some(ValueRef { dot: new_dot(core, old, value.dot)?, index: value.index }))
            .collect();
        Some(encode(&(&seen, mtime)))
    })
}

/// The node behind an inode number of the old store.
fn node_of(store: &SealedStore, ino: Ino) -> Option<NodeId> {
    match store.get(Space::Nodes, &ino.0.to_be_bytes()).ok().flatten().map(|row| record::read(&row)) {
        Some(Ok(NodeRow::Node(node))) => return Some(node.id),
        Some(Ok(NodeRow::View { of, .. })) if of != ino => return node_of(store, of),
        _ => {}
    }
    // Its record can't be read: somewhere an id leads to it.
    let mut from = b"n".to_vec();
    loop {
        let rows = store.raw().scan(Space::Ids, &from, &prefix_end(b"n"), PAGE).ok()?;
        from = [rows.last()?.0.as_slice(), &[0]].concat();
        let found = rows.iter().find(|(_, value)| *value == ino.0.to_be_bytes());
        if let Some((key, _)) = found {
            let id = NodeId::try_from(key.get(1..)?).ok()?;
            return (node_id_key(&id) == **key).then_some(id);
        }
    }
}
