//! Identities, keys, seals, hashes and signatures of p2pfs: bytes in, bytes out.
//!
//! This crate performs no I/O, keeps no clock and knows nothing of files, volumes or the network. Randomness
//! comes in through [`Entropy`], so that a simulation repeats. Every key, hash and signature is separated from all
//! others by one line of the table in [`Label`]. What is opened or verified here comes from disks and strangers:
//! it is refused with an error, and never makes this crate panic.

mod fixed_bytes;
mod id;
mod label;

mod entropy;
mod hash;
mod padding;
mod symmetric;
mod xchacha;

mod block;
mod patch;
mod seal;

mod sealed_box;
mod signature;

mod fingerprint;
mod identity;
mod key_file;

pub use block::{
    BLOCK_HEADER_SIZE, BLOCK_SIZE, BlockHeader, PAGE_SIZE, first_page, open_block, open_pages, plain_len, seal_block,
    stored_len, stored_range,
};
pub use entropy::{Entropy, OsEntropy, SeededEntropy, random_array};
pub use fingerprint::Fingerprint;
pub use hash::{Hasher, TagKey, keyed_tag};
pub use id::{BadId, DeviceId, EpochId, Hash, KeyId, UserId, VolumeId};
pub use identity::{BadKeys, DeviceKeys, DevicePublic, UserKeys, UserPublic};
pub use key_file::{KeyFile, KeyFileError, PassphraseCost, Unlock};
pub use label::Label;
pub use padding::padded_len;
pub use patch::{PATCH_HEADER_SIZE, PatchHeader, UNIT_SIZE, UNITS, is_patch, open_units, seal_patch};
pub use seal::{OpenError, SEAL_OVERHEAD, open, open_padded, seal, seal_padded};
pub use sealed_box::{BOX_OVERHEAD, BadBoxKey, BoxPublic, BoxSecret};
pub use signature::{BadSignature, PublicKey, Signature, SigningKeys, verify};
pub use symmetric::{DerivingKey, SymmetricKey};

/// What [`define_id!`] expands to needs these in every crate that calls it.
#[doc(hidden)]
pub mod define_id_support {
    pub use crate::fixed_bytes::{deserialize, display, parse_hex, serialize};
    pub use serde;
}
