//! Numbers of the directories below `.p2pfs` that the volume gives to nothing.
//!
//! They say by themselves what they stand for, and stay the same while the daemon runs: the highest bit, which of the kinds
//! it is, and what 60 bits can tell of it.

use volume::{Volume, deleted::WasDirectory, node::Ino};

const OURS: u64 = 1 << 63;
const KIND: u32 = 60;
const REST: u64 = (1 << KIND) - 1;

/// What the volume's own numbers of the past begin with; what follows of them fits.
const PAST: u64 = 1 << 62;

/// What one of our numbers stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// `.p2pfs` and `at`, by their place.
    Fixed(u64),
    /// A directory of what is gone.
    Deleted(WasDirectory),
    /// The versions of a path, whose number this is in [`super::paths`].
    Versions(u64),
}

/// The number of a fixed directory.
pub(super) const fn fixed(place: u64) -> Ino {
    Ino(OURS | place)
}

/// The number of the versions of a path.
pub(super) const fn versions(path: u64) -> Ino {
    Ino(OURS | 3 << KIND | path & REST)
}

/// The number of a directory of what is gone.
pub(super) fn deleted(volume: &Volume, directory: WasDirectory) -> volume::Result<Ino> {
    let WasDirectory { ino, gone } = directory;
    match gone {
        None => Ok(Ino(OURS | 1 << KIND | ino.0 & REST)),
        Some(gone) => {
            let then = volume.as_it_was(ino, gone.saturating_sub(1))?;
            Ok(Ino(OURS | 2 << KIND | then.0 & REST))
        }
    }
}

/// Whether it is one of ours, in which nothing can be changed.
pub(in crate::driver) fn is_ours(ino: Ino) -> bool {
    ino.0 & OURS != 0
}

/// Whether it is one of a path whose versions are shown.
pub(super) fn is_of_versions(ino: Ino) -> bool {
    is_ours(ino) && (ino.0 & !OURS) >> KIND == 3
}

/// What a number stands for.
pub(super) fn meaning(volume: &Volume, ino: Ino) -> Option<Number> {
    let rest = ino.0 & REST;
    match (ino.0 & !OURS) >> KIND {
        _ if !is_ours(ino) => None,
        0 => Some(Number::Fixed(rest)),
        1 => Some(Number::Deleted(WasDirectory { ino: Ino(rest), gone: None })),
        2 => {
            let (ino, arrival) = volume.of_the_past(Ino(PAST | rest))?;
            Some(Number::Deleted(WasDirectory { ino, gone: Some(arrival + 1) }))
        }
        3 => Some(Number::Versions(rest)),
        _ => None,
    }
}
