//! Key files: secrets at rest, sealed under a passphrase or under a key kept elsewhere.
//!
//! ```text
//! magic       8   "P2PFSKEY"
//! version     1   1
//! kind        1   1 = passphrase (Argon2id), 2 = key
//! memory      4   Argon2id m in KiB, u32 LE; 0 in kind 2
//! passes      4   Argon2id t, u32 LE;        0 in kind 2
//! lanes       4   Argon2id p, u32 LE;        0 in kind 2
//! salt       16   random
//! sealed    40+n  nonce ‖ ciphertext ‖ tag, bound to everything above
//! check       8   hash of everything above
//! ```
//!
//! The check needs no secret. It only tells an accident to the file from a wrong passphrase, which the seal alone
//! can't; against tampering stands the seal.

use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{Entropy, Hash, Label, SEAL_OVERHEAD, SymmetricKey, open, random_array, seal};

const MAGIC: &[u8; 8] = b"P2PFSKEY";
const VERSION: u8 = 1;
const HEADER_SIZE: usize = 38;
const CHECK_SIZE: usize = 8;
const SALT_SIZE: usize = 16;

const KIND_PASSPHRASE: u8 = 1;
const KIND_KEY: u8 = 2;

/// What opens a key file.
pub enum Unlock {
    /// Something a person remembers, stretched with Argon2id.
    Passphrase(Zeroizing<String>),
    /// A key from a file or a credential, for mounts that start unattended.
    Key(SymmetricKey),
}

/// What one guess at a passphrase costs (Argon2id, RFC 9106 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes that could be computed in parallel.
    pub lanes: u32,
}

impl PassphraseCost {
    /// The second recommendation of RFC 9106 §4 with one lane: 64 MiB, three passes.
    pub const DEFAULT: PassphraseCost = PassphraseCost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };

    /// As cheap as Argon2id gets. For tests: it protects nothing.
    pub const FOR_TESTS: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };

    /// The most that a file may demand, since whoever writes the file decides what reading it costs.
    const MAX: PassphraseCost = PassphraseCost { memory_kib: 1024 * 1024, passes: 16, lanes: 16 };

    fn stretch(self, passphrase: &str, salt: &[u8; SALT_SIZE]) -> Result<SymmetricKey, KeyFileError> {
        if self.memory_kib > Self::MAX.memory_kib || self.passes > Self::MAX.passes || self.lanes > Self::MAX.lanes {
            return Err(KeyFileError::Damaged);
        }
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| KeyFileError::Damaged)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
            .map_err(|_| KeyFileError::Damaged)?;
        Ok(SymmetricKey::from_bytes(*key).derive(Label::KeyFile, b""))
    }
}

/// Why a key file did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// The file is whole, and this passphrase does not open it.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// The file is whole, and this key does not open it.
    #[error("wrong key")]
    WrongKey,
    /// A key was given, and the file is sealed under a passphrase.
    #[error("key file is sealed under a passphrase")]
    NeedsPassphrase,
    /// A passphrase was given, and the file is sealed under a key.
    #[error("key file is sealed under a key")]
    NeedsKey,
    /// Not a key file, or no longer the one that was written.
    #[error("key file is damaged")]
    Damaged,
    /// Written by a later release.
    #[error("key file has version {found}, this release knows {known}")]
    NewerVersion {
        /// Version of the file.
        found: u8,
        /// Newest version that this release reads.
        known: u8,
    },
}

/// Seals and opens key files; see the module's table.
pub struct KeyFile;

impl KeyFile {
    /// Seals `plain` into the bytes of a key file.
    pub fn seal(plain: &[u8], unlock: &Unlock, entropy: &dyn Entropy) -> Vec<u8> {
        Self::seal_at_cost(plain, unlock, PassphraseCost::DEFAULT, entropy)
    }

    /// Seals `plain` like [`KeyFile::seal`], at another cost for each guess at the passphrase.
    pub fn seal_at_cost(plain: &[u8], unlock: &Unlock, cost: PassphraseCost, entropy: &dyn Entropy) -> Vec<u8> {
        let (kind, cost) = match unlock {
            Unlock::Passphrase(_) => (KIND_PASSPHRASE, cost),
            Unlock::Key(_) => (KIND_KEY, PassphraseCost { memory_kib: 0, passes: 0, lanes: 0 }),
        };
        let salt = random_array(entropy);
        let mut file = Vec::with_capacity(HEADER_SIZE + SEAL_OVERHEAD + plain.len() + CHECK_SIZE);
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&[VERSION, kind]);
        file.extend_from_slice(&cost.memory_kib.to_le_bytes());
        file.extend_from_slice(&cost.passes.to_le_bytes());
        file.extend_from_slice(&cost.lanes.to_le_bytes());
        file.extend_from_slice(&salt);
        let key = match unlock {
            Unlock::Passphrase(passphrase) => {
                cost.stretch(passphrase, &salt).expect("the cost is within Argon2id's limits and ours")
            }
            Unlock::Key(key) => key.derive(Label::KeyFile, &salt),
        };
        let sealed = seal(&key, &file, plain, entropy);
        file.extend_from_slice(&sealed);
        let check = check(&file);
        file.extend_from_slice(&check);
        file
    }

    /// Opens the bytes of a key file.
    pub fn open(bytes: &[u8], unlock: &Unlock) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let file = Parsed::new(bytes)?;
        let (key, wrong) = match (file.kind, unlock) {
            (Kind::Passphrase(cost), Unlock::Passphrase(passphrase)) => {
                (cost.stretch(passphrase, file.salt)?, KeyFileError::WrongPassphrase)
            }
            (Kind::Key, Unlock::Key(key)) => (key.derive(Label::KeyFile, file.salt), KeyFileError::WrongKey),
            (Kind::Passphrase(_), Unlock::Key(_)) => return Err(KeyFileError::NeedsPassphrase),
            (Kind::Key, Unlock::Passphrase(_)) => return Err(KeyFileError::NeedsKey),
        };
        open(&key, file.header, file.sealed).map(Zeroizing::new).map_err(|_| wrong)
    }

    /// Tells whether the file is sealed under a passphrase (rather than a key), so that one need not ask in vain.
    pub fn needs_passphrase(bytes: &[u8]) -> Result<bool, KeyFileError> {
        Ok(matches!(Parsed::new(bytes)?.kind, Kind::Passphrase(_)))
    }
}

enum Kind {
    Passphrase(PassphraseCost),
    Key,
}

/// A whole file of a known version, taken apart; nothing secret was needed for that.
struct Parsed<'a> {
    kind: Kind,
    salt: &'a [u8; SALT_SIZE],
    header: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Parsed<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, KeyFileError> {
        Self::split(bytes)?.ok_or(KeyFileError::Damaged)
    }

    fn split(bytes: &'a [u8]) -> Result<Option<Self>, KeyFileError> {
        let Some((&version, rest)) = bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        // What follows the version is the newer release's affair, so it is looked at before anything else.
        if version > VERSION {
            return Err(KeyFileError::NewerVersion { found: version, known: VERSION });
        }
        Ok((version == VERSION).then(|| Self::split_version_1(bytes, rest)).flatten())
    }

    fn split_version_1(bytes: &'a [u8], rest: &'a [u8]) -> Option<Self> {
        let (body, found) = bytes.split_last_chunk::<CHECK_SIZE>()?;
        let (header, sealed) = body.split_at_checked(HEADER_SIZE)?;
        if sealed.len() < SEAL_OVERHEAD || *found != check(body) {
            return None;
        }
        let (&kind, rest) = rest.split_first()?;
        let (memory_kib, rest) = split_u32(rest)?;
        let (passes, rest) = split_u32(rest)?;
        let (lanes, rest) = split_u32(rest)?;
        let salt = rest.first_chunk()?;
        let kind = match kind {
            KIND_PASSPHRASE => Kind::Passphrase(PassphraseCost { memory_kib, passes, lanes }),
            KIND_KEY if (memory_kib, passes, lanes) == (0, 0, 0) => Kind::Key,
            _ => return None,
        };
        Some(Self { kind, salt, header, sealed })
    }
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

fn check(body: &[u8]) -> [u8; CHECK_SIZE] {
    let hash = Hash::of_bytes(Label::KeyFileCheck, body);
    let mut check = [0; CHECK_SIZE];
    check.copy_from_slice(&hash.as_bytes()[..CHECK_SIZE]);
    check
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::SeededEntropy;

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.to_owned()))
    }

    fn key(byte: u8) -> Unlock {
        Unlock::Key(SymmetricKey::from_bytes([byte; 32]))
    }

    fn file(unlock: &Unlock) -> Vec<u8> {
        KeyFile::seal_at_cost(b"secret", unlock, PassphraseCost::FOR_TESTS, &SeededEntropy::new(1))
    }

    /// Changes a file and makes its check right again, as somebody with intent would.
    fn forged(mut file: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        file.truncate(file.len() - CHECK_SIZE);
        change(&mut file);
        let check = check(&file);
        file.extend_from_slice(&check);
        file
    }

    fn check_open(file: &[u8], unlock: &Unlock, expected: Result<&[u8], KeyFileError>) {
        let opened = KeyFile::open(file, unlock);
        assert_eq!(opened.as_ref().map(|plain| plain.as_slice()), expected.as_ref().map(|plain| *plain));
    }

    #[test]
    fn the_format_is_frozen() {
        let hash = |unlock| Hash::of_bytes(Label::BlockHash, &file(&unlock)).to_string();
        assert_eq!(
            hash(passphrase("correct horse")),
            "7701f9412080edc088a7c15aec21d3e84877b17b24aa6839cca3cf15e51628de"
        );
        assert_eq!(hash(key(7)), "3317bb800b824b883034e9ae7ff5d5b0d9f7c2f7ffb6e04d00291bc9c2074ae3");
    }

    #[test]
    fn a_passphrase_opens_its_file() {
        let file = file(&passphrase("correct horse"));
        check_open(&file, &passphrase("correct horse"), Ok(b"secret"));
        check_open(&file, &passphrase("correct house"), Err(KeyFileError::WrongPassphrase));
        check_open(&file, &key(7), Err(KeyFileError::NeedsPassphrase));
        assert_eq!(KeyFile::needs_passphrase(&file), Ok(true));
    }

    #[test]
    fn a_key_opens_its_file() {
        let file = file(&key(7));
        check_open(&file, &key(7), Ok(b"secret"));
        check_open(&file, &key(8), Err(KeyFileError::WrongKey));
        check_open(&file, &passphrase("correct horse"), Err(KeyFileError::NeedsKey));
        assert_eq!(KeyFile::needs_passphrase(&file), Ok(false));
    }

    #[test]
    fn the_default_cost_is_written_and_obeyed() {
        let unlock = passphrase("correct horse");
        let file = KeyFile::seal(b"secret", &unlock, &SeededEntropy::new(1));
        assert_eq!(file[10..22], [0, 0, 1, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
        check_open(&file, &unlock, Ok(b"secret"));
    }

    #[test]
    fn an_accident_is_told_from_a_wrong_passphrase() {
        let unlock = passphrase("correct horse");
        let file = file(&unlock);
        for at in (0..file.len()).filter(|&at| at != MAGIC.len()) {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            check_open(&damaged, &unlock, Err(KeyFileError::Damaged));
            check_open(&file[..at], &unlock, Err(KeyFileError::Damaged));
        }
        check_open(&[file.as_slice(), b"x"].concat(), &unlock, Err(KeyFileError::Damaged));
    }

    #[test]
    fn the_seal_covers_the_header() {
        let unlock = key(7);
        // The salt is the only part of this header that can change and still parse.
        let file = forged(file(&unlock), |file| file[HEADER_SIZE - 1] ^= 1);
        check_open(&file, &unlock, Err(KeyFileError::WrongKey));
    }

    #[test]
    fn a_newer_version_is_named_whatever_follows() {
        let newer = |found| Err(KeyFileError::NewerVersion { found, known: VERSION });
        check_open(b"P2PFSKEY\x02", &key(7), newer(2));
        check_open(b"P2PFSKEY\xffanything", &key(7), newer(255));
        check_open(&forged(file(&key(7)), |file| file[8] = 0), &key(7), Err(KeyFileError::Damaged));
    }

    #[test]
    fn a_file_cannot_demand_more_than_the_limits() {
        let unlock = passphrase("correct horse");
        let demanding = |memory: u32, passes: u32, lanes: u32| {
            forged(file(&unlock), |file| {
                file[10..14].copy_from_slice(&memory.to_le_bytes());
                file[14..18].copy_from_slice(&passes.to_le_bytes());
                file[18..22].copy_from_slice(&lanes.to_le_bytes());
            })
        };
        check_open(&demanding(8, 1, 1), &unlock, Ok(b"secret"));
        check_open(&demanding(16, 1, 1), &unlock, Err(KeyFileError::WrongPassphrase));
        for (memory, passes, lanes) in [
            (1024 * 1024 + 1, 1, 1),
            (u32::MAX, 1, 1),
            (64, 17, 1),
            (1024, 1, 17),
            (0, 1, 1),
            (8, 0, 1),
            (8, 1, 0),
            (8, 1, 2),
        ] {
            check_open(&demanding(memory, passes, lanes), &unlock, Err(KeyFileError::Damaged));
        }
    }

    #[test]
    fn a_file_without_room_for_a_seal_is_damaged() {
        for len in MAGIC.len() + 1..HEADER_SIZE + SEAL_OVERHEAD {
            let short = forged(file(&key(7)), |file| file.truncate(len));
            check_open(&short, &key(7), Err(KeyFileError::Damaged));
        }
    }

    #[test]
    fn unknown_kinds_and_unused_costs_are_refused() {
        for change in [|file: &mut Vec<u8>| file[9] = 3, |file: &mut Vec<u8>| file[10] = 1] {
            check_open(&forged(file(&key(7)), change), &key(7), Err(KeyFileError::Damaged));
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(plain in vec(any::<u8>(), 0..500), byte: u8, seed: u64) {
            let file = KeyFile::seal(&plain, &key(byte), &SeededEntropy::new(seed));
            prop_assert_eq!(&*KeyFile::open(&file, &key(byte)).unwrap(), &plain);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..200), with_magic: bool) {
            let bytes = if with_magic { [MAGIC.as_slice(), &[VERSION], &bytes].concat() } else { bytes };
            prop_assert!(KeyFile::open(&bytes, &key(7)).is_err());
            prop_assert!(KeyFile::open(&bytes, &passphrase("x")).is_err());
        }
    }
}
