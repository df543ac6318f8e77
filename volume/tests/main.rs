//! Whole volumes, one and several, with a wire between them that is a function call.
//!
//! One program: each file by itself would be linked with everything again, which takes longer than its tests.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "what fails here is the test")]

mod agreed;
mod archive;
mod common;
mod conflicts;
mod contradictions;
mod convergence;
mod damaged_store;
mod devices;
mod filesystem_model;
mod history;
mod keeper;
mod letters;
mod model;
mod narrowing;
mod ownership;
mod power;
mod read_ahead;
mod removal;
mod replication;
mod reseal;
mod restore;
mod restored;
mod rights;
mod scrub;
mod streaming;
mod told_paths;
mod versions;
mod work;
