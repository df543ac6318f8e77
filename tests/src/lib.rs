//! What the end-to-end tests stand on: real daemons on real mounts, that find each other through a real registry.
//!
//! A test makes a [`peer::Peer`] or a [`group::Group`] and then works on the mounts as any program would. Nothing of
//! p2pfs is called but its programs. Whatever a test started ends with it, also when it fails; what a killed run left
//! behind ends with the next one ([`scratch`]).
//!
//! Waiting is always for something, with a deadline ([`patience`]); there are no pauses that hope for the best.
//! Without `/dev/fuse` tests fail and say so.
//!
//! Environment:
//! - `P2PFS_BIN_DIR`: where the programs are, else the release build of this workspace.
//! - `P2PFS_TEST_FILES`, `P2PFS_TEST_KILLS`, `P2PFS_TEST_KILL_STEP`, `P2PFS_TEST_CUTS`, `P2PFS_TEST_PEER_CUTS`, `P2PFS_TEST_STEPS`,
//!   `P2PFS_TEST_BIG_MIB`, `P2PFS_TEST_SEED`: longer runs, or the same one again.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "whatever fails here fails the test")]

pub mod binaries;
pub mod clock;
pub mod deeds;
pub mod faults;
pub mod fsx;
pub mod group;
pub mod history;
pub mod mapping;
pub mod patience;
pub mod peer;
pub mod power;
pub mod process;
pub mod random;
pub mod registry;
pub mod rogue;
pub mod scraper;
pub mod scratch;
pub mod tool;
pub mod tree;
pub mod twin;
pub mod wire;
pub mod workload;

/// The number in the environment variable `name`, or `default`.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
