//! The network of p2pfs: QUIC between devices, and how they find each other.
//!
//! A device's key is its identity on the wire; membership in a volume is proven on each connection. This crate moves
//! the messages of [`volume::sync`] and blocks named by hash; it never looks inside: it knows no trees, no names, no
//! merge rules and no FUSE. [`metrics`] is beside all that: the one page of HTTP that its programs show to operators.

pub mod identity;

pub mod endpoint;
mod interfaces;

pub mod frame;
pub mod places;

pub mod close;
mod handshake;

mod block_stream;
mod letter_stream;
mod pace;
mod peer;
pub mod sends;

mod backoff;
mod blocking;

pub mod registry_address;
pub mod registry_client;
pub mod registry_protocol;

pub mod ticket;

pub mod join;
pub mod swarm;

pub mod metrics;

#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod vectors;
