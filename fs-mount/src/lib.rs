//! The mount itself: a volume shown to the kernel through FUSE.
//!
//! The program around it (`p2pfs`: daemon, control socket, command line) is in `main.rs` and its modules. Both
//! know nothing of merge rules, ciphers or wire formats.

pub mod driver;
pub mod errno;
pub mod moment;
pub mod version_names;
