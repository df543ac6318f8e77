//! Waiting for peers: until they hold everything of ours, and everything of theirs is here.

use volume::Volume;

use super::network::Network;
use crate::{control::protocol::Progress, output::count};

/// Returns when at least one peer is connected and all connected ones are in step, contents included. Woken by
/// changes; `progress` is told how far it is at each of them.
pub(crate) async fn until_in_step(volume: &Volume, network: &Network, mut progress: impl FnMut(Progress)) {
    let mut changes = network.changes();
    loop {
        changes.mark_unchanged();
        let (how_far, done) = how_far(volume, network);
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

/// How far it is, and whether that is all the way.
pub(crate) fn how_far(volume: &Volume, network: &Network) -> (Progress, bool) {
    let peers = network.connected();
    let mut how_far = Progress { peers: peers.len(), blocks: volume.status().wanted_blocks, ..Progress::default() };
    for peer in &peers {
        let progress = &peer.progress;
        how_far.commits += progress.their_commits_missing_here + progress.my_commits_missing_there;
        if progress.in_step && progress.they_hold_all_mine && progress.i_hold_all_theirs {
            how_far.in_step += 1;
        }
    }
    let done = how_far.peers > 0 && how_far.in_step == how_far.peers;
    (how_far, done)
}

/// What to say when the time is up.
pub(crate) fn too_late(how_far: &Progress) -> String {
    let Progress { peers, in_step, commits, blocks } = how_far;
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
