//! What can go wrong in a volume, told by what the caller can do about it.

use std::io;

use crate::content::BlockHash;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call on the volume failed. The mount maps each variant to one errno; nothing else does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such entry, or the file it led to is gone.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The arguments make no sense together (a directory moved into itself, unknown flags, bad names).
    #[error("invalid argument")]
    Invalid,
    /// A name over 255 bytes, or a link target over 4095.
    #[error("name too long")]
    NameTooLong,
    /// A file would grow past what the format can hold.
    #[error("file too large")]
    FileTooLarge,
    /// The node has as many links as the format allows.
    #[error("too many links")]
    TooManyLinks,
    /// This device's disk has no room; nothing was changed.
    #[error("no space left on device")]
    NoSpace,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// A value doesn't fit the caller's buffer, or is larger than the format allows.
    #[error("value out of range")]
    Range,
    /// An extended attribute value or set of them is too large.
    #[error("value too large")]
    TooBig,
    /// Nothing lies at or after this offset (seeking data or holes).
    #[error("no data at or after this offset")]
    NoMoreData,
    /// The role in the volume doesn't allow it (a reader changing something).
    #[error("read-only for this member")]
    ReadOnly,
    /// Only the owner or an admin may.
    #[error("operation not permitted")]
    NotPermitted,
    /// The user may not.
    #[error("permission denied")]
    Denied,
    /// The file system has no such operation.
    #[error("operation not supported")]
    NotSupported,
    /// An open handle that isn't (any more).
    #[error("bad handle")]
    BadHandle,
    /// These blocks are not on this device yet: ask for them and try again.
    #[error("{} block(s) are not on this device yet", .0.len())]
    Absent(Vec<BlockHash>),
    /// What is on the disk is not what was written there; it is never shown.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A rule of the volume stands against it (name taken, ticket spent …); the text is for people.
    #[error("{0}")]
    Refused(String),
    /// The disk failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// A damaged record, with what was being read.
    pub fn damaged(what: impl Into<String>) -> Self {
        Error::Damaged(what.into())
    }

    /// Nothing of the volume has come yet.
    pub(crate) fn not_synced() -> Self {
        Error::Refused("the volume has not been synced yet".to_owned())
    }
}
