//! The merged tree held against a naive one: random work on several replicas, and what must be true afterwards.

pub mod op;
pub mod world;
