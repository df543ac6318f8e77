//! Peers on the loopback interface.
//!
//! One program: each file by itself would be linked with everything again, which takes longer than its tests.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

mod common;
mod joining;
mod malice;
mod syncing;
