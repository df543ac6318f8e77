//! The replicated, encrypted volume of p2pfs.
//!
//! Files and directories that several devices change at once, each on its own copy: every change
//! is part of a signed commit, commits travel in any causal order, and whoever knows the same
//! commits sees the same tree. This crate performs no I/O but through the traits it is handed
//! ([`Store`], [`BlockStore`]), reads no clock but [`Clock`], starts no threads, and knows nothing
//! of sockets or FUSE.

// What everything is made of.
pub mod error;
pub mod id;
pub mod node;
pub mod time;
pub mod version;

// The signed operation, and who may sign.
pub mod commit;
mod keeper;
pub mod member;
mod ownership;
pub mod proof;
mod rekey;
mod set_back;
mod standing;

// Where it is kept.
mod alerts;
mod anchor;
pub mod archive;
pub mod audit;
mod audited;
pub mod disk_store;
pub mod memory_store;
pub mod sealed_store;
mod space;
pub mod store;

// File contents.
pub mod content;

// The merged state.
mod access;
mod acl;
mod agreed;
mod ahead;
mod align;
mod apply;
mod bins;
mod conflicts;
mod core;
pub mod deleted;
mod epochs;
mod history;
mod holders;
pub mod inspect;
mod invitations;
mod judge;
mod late;
mod namespace;
mod own_devices;
mod paths;
mod realms;
mod record;
mod reveal;
mod rights;
mod row;
mod spilled;
mod tree;
mod undo;
pub mod versions;

// The volume as a mount and a network task see it.
mod correspondents;
mod fetch;
mod files;
mod gauges;
pub mod letters;
pub mod quarantine;
mod reseal;
pub mod restore;
pub mod settings;
mod snapshots;
pub mod sync;
pub mod take_back;
mod volume;

// What was, and for how long it is kept.
mod reclaim;
mod retention;

// Damage, found and mended.
pub mod salvage;
pub mod verify;

#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod vectors;

pub use access::{AccessReport, UserAccess};
pub use alerts::{Alert, OnAlert};
pub use audited::Deed;
pub use conflicts::{Conflict, ConflictVersion, Conflicts, Keep};
pub use content::{BlockHash, BlockStore};
pub use correspondents::Correspondent;
pub use error::{Error, Result};
pub use files::{PagesFrom, Unpublished};
pub use gauges::Gauges;
pub use history::is_past;
pub use holders::Holders;
pub use invitations::{InvitedAs, OpenInvitation};
pub use letters::Letter;
pub use member::{DeviceInfo, Invitation, JoinGrant, JoinRequest, Member, Role, TicketSecret};
pub use node::{
    Allocate, AttributeChange, Attributes, Caller, DirEntry, Handle, Ino, NAME_MAX, NewNode, NodeKind, OpenMode,
    RenameMode, SetTime, SetXattr, Statistics,
};
pub use own_devices::{DeviceGrant, DeviceRequest, ExportedParts, ExportedRequest, UserSecrets};
pub use proof::KeptProof;
pub use reclaim::Reclaimed;
pub use reseal::{Left, Resealed};
pub use retention::Thinned;
pub use snapshots::Snapshot;
pub use store::Store;
pub use sync::{CheckedMessage, Message, PeerProgress, Session, SessionError};
pub use time::{Clock, Timestamp};
pub use volume::{Changed, Parts, Status, Volume};
