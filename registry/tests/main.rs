//! The registry on the loopback interface, its binary, and members who find each other by it.
//!
//! One program: each file by itself would be linked with everything again, which takes longer than its tests.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

extern crate peer_net as p2pfs_peer_net;

mod binary;
#[path = "../../peer-net/tests/common/mod.rs"]
mod common;
mod discovery;
mod members;
