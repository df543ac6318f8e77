//! The registry: tells devices that know a common token where the others are.
//!
//! It holds leases in memory and nothing else: no file data, no names, no keys of volumes, nothing about peers on
//! disk. What it passes on is signed by the devices, so it can withhold records but not make them up.

pub mod key;
pub mod limits;
pub mod metrics;
pub mod server;
pub mod table;
