//! Waiting for peers: until they hold everything of ours, and everything of theirs is here.

use std::collections::HashMap;

use volume::Volume;

use super::network::Network;
use crate::{control::protocol::Progress, output::count};

/// Waits for the connected peers. Each is first asked to commit what it has pending: what was answered to a program
/// over there before this began is waited for too.
pub(crate) struct Waiter<'a> {
    volume: &'a Volume,
    network: &'a Network,
    /// By connection, which answer to wait for.
    flushes: HashMap<u64, u64>,
}

impl<'a> Waiter<'a> {
    pub(crate) fn new(volume: &'a Volume, network: &'a Network) -> Self {
        Self { volume, network, flushes: HashMap::new() }
    }

    /// Returns when at least one peer is connected and all connected ones are in step, contents included. Woken by
    /// changes; `progress` is told how far it is at each of them.
    pub(crate) async fn until_in_step(&mut self, mut progress: impl FnMut(Progress)) {
        let mut changes = self.network.changes();
        loop {
            changes.mark_unchanged();
            // It takes locks that are held while the disk works.
            let how_far = tokio::task::block_in_place(|| self.how_far());
            let done = how_far.peers > 0 && how_far.in_step == how_far.peers;
            progress(how_far);
            if done {
                return;
            }
            if changes.changed().await.is_err() {
                // The network has ended: nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How far it is.
    pub(crate) fn how_far(&mut self) -> Progress {
        let peers = self.network.connected();
        let status = self.volume.status();
        let (blocks, disk_full) = (status.wanted_blocks, status.disk_full);
        let mut how_far = Progress { peers: peers.len(), blocks, disk_full, ..Progress::default() };
        for peer in &peers {
            let flush = match self.flushes.get(&peer.connection) {
                Some(flush) => *flush,
                None => {
                    // A connection that is gone already is not counted the next time.
                    let flush = self.network.ask_flush(peer).unwrap_or(u64::MAX);
                    self.flushes.insert(peer.connection, flush);
                    flush
                }
            };
            let progress = &peer.progress;
            how_far.commits += progress.their_commits_missing_here + progress.my_commits_missing_there;
            let in_step = progress.in_step && progress.they_hold_all_mine && progress.i_hold_all_theirs;
            how_far.in_step += usize::from(in_step && progress.flushed >= flush);
        }
        how_far
    }
}

/// What to say when the time is up.
pub(crate) fn too_late(how_far: &Progress) -> String {
    let Progress { peers, in_step, commits, blocks, disk_full } = how_far;
    if *disk_full {
        return "time is up: this device's disk is full, and what peers send waits for room on it".to_owned();
    }
    if *peers == 0 {
        return "no peer is connected: see `p2pfs peers` and `p2pfs status`".to_owned();
    }
    format!(
        "time is up with {in_step} of {} in step, {} and {} under way: wait again, or see `p2pfs peers`",
        count(*peers as u64, "connected peer"),
        count(*commits, "commit"),
        count(*blocks, "block")
    )
}
