//! Random work on several replicas, and what must be true afterwards.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test's own model: what fails here is the test"
)]

pub mod op;
pub mod world;
