//! A mount answers and looks as the kernel's own filesystem does, whatever is done to names and attributes.
//!
//! `P2PFS_TEST_STEPS` is how many calls each test makes; a failing one prints the seed for `P2PFS_TEST_SEED`.

use std::{fs, path::PathBuf};

use p2pfs_tests::{peer::Peer, random::Random, setting, tool, twin::Twins};

/// How often the daemon ends.
const ROUNDS: u64 = 10;

fn steps() -> u64 {
    setting("P2PFS_TEST_STEPS", 10_000)
}

/// A folder on a filesystem in memory, which ends with the peer's scratch folder.
fn in_memory(peer: &Peer) -> PathBuf {
    let folder = peer.scratch().join("memory");
    fs::create_dir(&folder).unwrap();
    tool::run("mount", ["-t", "tmpfs", "-o", "mode=755", "tmpfs", folder.to_str().unwrap()]);
    folder
}

#[test]
fn calls_are_answered_as_by_the_kernel_s_own() {
    let peer = Peer::system();
    plain(&peer);
    let mut twins = Twins::new(peer.root(), &in_memory(&peer), Random::seeded());
    twins.run(steps());
}

#[test]
fn what_was_answered_is_there_after_each_kind_of_end() {
    let mut peer = Peer::system();
    let mut random = Random::seeded();
    plain(&peer);
    let mut twins = Twins::new(peer.root(), &in_memory(&peer), Random::new(random.draw()));
    for _ in 0..ROUNDS {
        twins.run(steps() / ROUNDS);
        // Killed, files without a name are gone; and a busy mount stays.
        twins.close();
        match random.below(3) {
            0 => peer.unmount(),
            _ => peer.kill9(),
        }
        peer.mount();
        twins.compare();
    }
}

/// A top as other filesystems have it: what is made there gets no rights for members beyond the umask.
fn plain(peer: &Peer) {
    let root = peer.root().to_str().unwrap();
    p2pfs_tests::tool::run("setfacl", ["-b", "-k", root]);
    p2pfs_tests::tool::run("chmod", ["755", root]);
}
