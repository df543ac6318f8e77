//! The merged tree held against a naive one: random work on several replicas, and what must be true afterwards.

pub mod history;
pub mod op;
pub mod reference;
pub mod world;
