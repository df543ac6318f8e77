//! The reference model: what the merged tree must be, worked out from all commits by the naivest means.
//!
//! It shares no code with the volume's own tree; from the volume it takes the layout of commits, ids and bodies only.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a model for tests: whatever fails here is the failure of a test"
)]

mod agreed;
mod history;
mod keys;
mod lawful;
mod reference;
mod standing;

pub use history::{Change, History, Rank};
pub use keys::KeyRing;
pub use reference::{ContentText, DAMAGED, Reference};
