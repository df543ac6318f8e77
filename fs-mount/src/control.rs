//! The conversation between the command line and the daemon: a Unix socket, one request per connection.
//!
//! The client sends one line of JSON, the daemon answers with lines of JSON: any number of progress lines, then one
//! reply. Both ends are one program of one version, so this is no format that others rely on.

pub(crate) mod access;
pub(crate) mod agreed;
pub(crate) mod client;
pub(crate) mod conflicts;
pub(crate) mod invitations;
pub(crate) mod letters;
pub(crate) mod log;
pub(crate) mod members;
pub(crate) mod protocol;
pub(crate) mod request;
pub(crate) mod sends;
pub(crate) mod server;
pub(crate) mod socket;
