//! Who this device is in a volume: names, keys, registries. At rest always sealed.
//!
//! The profile itself is in the key file and never changes by itself. What changes while the volume is used
//! ([`State`]) lies beside it, sealed under a key from the profile; losing it loses nothing that matters.

use std::path::Path;

use crypto::{
    DeviceKeys, Entropy, KeyFile, KeyFileError, Label, PassphraseCost, SymmetricKey, Unlock, UserKeys, VolumeId,
};
use peer_net::{registry_address::RegistryAddress, swarm::KnownPeer};
use serde::{Deserialize, Serialize};
use volume::JoinGrant;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    failure::{Failure, Outcome},
    home::{NewVolumeDir, VolumeDir, read_twice, write_twice},
    unlock, unlocks,
};

/// Sizes of sealed profiles are multiples of this.
const PROFILE_STEP: usize = 1024;
/// The most addresses that are remembered.
const KNOWN_LIMIT: usize = 256;

/// Everything this device keeps secret about one volume.
pub(crate) struct Profile {
    /// What the user calls the volume on this machine.
    pub(crate) label: String,
    /// The user's name in the volume, as asked for when joining.
    pub(crate) user: String,
    pub(crate) volume: VolumeId,
    pub(crate) registries: Vec<RegistryAddress>,
    /// Seals what this device stores.
    pub(crate) secret: SymmetricKey,
    device: Zeroizing<Vec<u8>>,
    user_keys: Zeroizing<Vec<u8>>,
}

/// The profile as bytes, inside the key file.
#[derive(Serialize, Deserialize)]
struct StoredProfile {
    label: String,
    user: String,
    volume: VolumeId,
    registries: Vec<String>,
    secret: SymmetricKey,
    #[serde(with = "serde_bytes")]
    device: Vec<u8>,
    #[serde(with = "serde_bytes")]
    user_keys: Vec<u8>,
}

impl Drop for StoredProfile {
    fn drop(&mut self) {
        self.device.zeroize();
        self.user_keys.zeroize();
    }
}

impl Profile {
    pub(crate) fn new(
        label: &str,
        user: &str,
        volume: VolumeId,
        registries: Vec<RegistryAddress>,
        secret: SymmetricKey,
        device: &DeviceKeys,
        user_keys: &UserKeys,
    ) -> Self {
        Self {
            label: label.to_owned(),
            user: user.to_owned(),
            volume,
            registries,
            secret,
            device: device.to_bytes(),
            user_keys: user_keys.to_bytes(),
        }
    }

    /// This device's keys.
    pub(crate) fn device_keys(&self) -> DeviceKeys {
        DeviceKeys::from_bytes(&self.device).expect("checked when the profile was opened")
    }

    /// This user's keys, as this device holds them.
    pub(crate) fn user_keys(&self) -> UserKeys {
        UserKeys::from_bytes(&self.user_keys).expect("checked when the profile was opened")
    }

    /// The same with another user's keys: those of the user whose further device this is.
    pub(crate) fn set_user(&mut self, name: &str, keys: &UserKeys) {
        name.clone_into(&mut self.user);
        self.user_keys = keys.to_bytes();
    }

    /// Seals the profile into the key file of a new volume.
    pub(crate) fn save(&self, dir: &NewVolumeDir, unlock: &Unlock, entropy: &dyn Entropy) -> Outcome<()> {
        self.save_in(dir.path(), unlock, entropy)
    }

    /// The same in the folder `dir`, in place of the key file there.
    pub(crate) fn save_in(&self, dir: &Path, unlock: &Unlock, entropy: &dyn Entropy) -> Outcome<()> {
        write_twice(&dir.join("keys"), &self.seal(unlock, PassphraseCost::DEFAULT, entropy))
    }

    fn seal(&self, unlock: &Unlock, cost: PassphraseCost, entropy: &dyn Entropy) -> Vec<u8> {
        let stored = StoredProfile {
            label: self.label.clone(),
            user: self.user.clone(),
            volume: self.volume,
            registries: self.registries.iter().map(ToString::to_string).collect(),
            secret: self.secret.clone(),
            device: self.device.to_vec(),
            user_keys: self.user_keys.to_vec(),
        };
        let mut plain = Zeroizing::new(rmp_serde::to_vec_named(&stored).expect("a profile can be encoded"));
        // Zeros, which the decoder doesn't read: the file's size must not tell how long the names are.
        let padded = plain.len().next_multiple_of(PROFILE_STEP);
        plain.resize(padded, 0);
        KeyFile::seal_at_cost(&plain, unlock, cost, entropy)
    }

    /// Opens the key file of the volume in `dir`. That a passphrase was wrong is noted.
    pub(crate) fn load(dir: &VolumeDir, unlock: &Unlock) -> Outcome<Self> {
        let opened = KeyFile::open(&unlock::read_keys(dir)?, unlock);
        if matches!(opened, Err(KeyFileError::WrongPassphrase)) {
            unlocks::note(dir.path());
        }
        Self::of(dir, opened)
    }

    /// The same, with a passphrase that may be another volume's.
    pub(crate) fn peek(dir: &VolumeDir, unlock: &Unlock) -> Outcome<Self> {
        Self::of(dir, KeyFile::open(&unlock::read_keys(dir)?, unlock))
    }

    fn of(dir: &VolumeDir, opened: Result<Zeroizing<Vec<u8>>, KeyFileError>) -> Outcome<Self> {
        let profile = Self::decode(opened, dir.short_id())?;
        if !profile.volume.to_string().starts_with(dir.short_id()) {
            return Err(Failure::new(format!("the key file in {} belongs to another volume", dir.path().display())));
        }
        Ok(profile)
    }

    fn decode(opened: Result<Zeroizing<Vec<u8>>, KeyFileError>, short_id: &str) -> Outcome<Self> {
        let plain = opened.map_err(|e| key_file_failure(short_id, e))?;
        let damaged = || Failure::new(format!("the key file of volume {short_id} holds no profile"));
        let stored: StoredProfile = rmp_serde::from_slice(&plain).map_err(|_| damaged())?;
        DeviceKeys::from_bytes(&stored.device).map_err(|_| damaged())?;
        UserKeys::from_bytes(&stored.user_keys).map_err(|_| damaged())?;
        let registries =
            stored.registries.iter().map(|r| r.parse()).collect::<Result<_, _>>().map_err(|_| damaged())?;
        Ok(Self {
            label: stored.label.clone(),
            user: stored.user.clone(),
            volume: stored.volume,
            registries,
            secret: stored.secret.clone(),
            device: Zeroizing::new(stored.device.clone()),
            user_keys: Zeroizing::new(stored.user_keys.clone()),
        })
    }
}

/// A key file's error with what to do about it.
pub(crate) fn key_file_failure(short_id: &str, error: KeyFileError) -> Failure {
    Failure::new(match error {
        KeyFileError::WrongPassphrase => "wrong passphrase".to_owned(),
        KeyFileError::NeedsPassphrase => {
            format!("the keys of volume {short_id} need a passphrase: give --passphrase-file FILE")
        }
        KeyFileError::NewerVersion { found, known } => format!(
            "the key file of volume {short_id} has version {found}, this p2pfs knows version {known}: use a newer p2pfs"
        ),
        KeyFileError::WrongKey => {
            format!("unlock.key does not open the keys of volume {short_id}: put back the one made with it")
        }
        KeyFileError::NeedsKey | KeyFileError::Damaged => format!("the key file of volume {short_id} is damaged"),
    })
}

/// What this device remembers between mounts.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Registries given to `mount`, instead of the profile's.
    pub(crate) registries: Option<Vec<String>>,
    /// Where the volume was mounted last, until it was unmounted.
    ///
    /// As bytes: a path need not be text.
    pub(crate) mountpoint: Option<Vec<u8>>,
    /// The port it listened on.
    pub(crate) port: Option<u16>,
    /// Where other devices were last reached.
    pub(crate) peers: Vec<KnownPeer>,
    /// The volume's keys, sealed to this user: should the store be lost, other devices are found and read with them.
    #[serde(default)]
    pub(crate) grant: Option<JoinGrant>,
}

impl State {
    /// What was saved last. What can't be read is as good as never written: it is only a memory.
    pub(crate) fn load(dir: &VolumeDir, secret: &SymmetricKey) -> Self {
        let path = dir.path().join("state");
        let Ok(sealed) = read_twice(&path, |sealed| Self::open(sealed, secret).is_some()) else {
            return Self::default();
        };
        match Self::open(&sealed, secret) {
            Some(state) => state,
            None => {
                log::warn!("the file of last known addresses is damaged, going on without it");
                Self::default()
            }
        }
    }

    /// Remembers it, in the volume's folder. When that fails (the disk is full) the volume works all the same.
    pub(crate) fn save(&self, dir: &Path, secret: &SymmetricKey, entropy: &dyn Entropy) {
        if write_twice(&dir.join("state"), &self.seal(secret, entropy)).is_err() {
            log::warn!("last known addresses can't be saved");
        }
    }

    /// The registries to use: those given to `mount` last, else the profile's.
    pub(crate) fn registries(&self, profile: &Profile) -> Vec<RegistryAddress> {
        match &self.registries {
            Some(given) => given.iter().filter_map(|r| r.parse().ok()).collect(),
            None => profile.registries.clone(),
        }
    }

    fn seal(&self, secret: &SymmetricKey, entropy: &dyn Entropy) -> Vec<u8> {
        let mut bounded = self.clone();
        bounded.peers.truncate(KNOWN_LIMIT);
        let plain = rmp_serde::to_vec_named(&bounded).expect("the state can be encoded");
        crypto::seal_padded(&state_key(secret), b"state", &plain, entropy)
    }

    fn open(sealed: &[u8], secret: &SymmetricKey) -> Option<Self> {
        let plain = crypto::open_padded(&state_key(secret), b"state", sealed).ok()?;
        rmp_serde::from_slice(&plain).ok()
    }
}

fn state_key(secret: &SymmetricKey) -> SymmetricKey {
    secret.derive(Label::ProfileKey, b"state")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crypto::OsEntropy;

    fn profile() -> Profile {
        let e = &OsEntropy;
        Profile::new(
            "documents",
            "alice",
            VolumeId::from_bytes([7; 32]),
            Vec::new(),
            SymmetricKey::generate(e),
            &DeviceKeys::generate(e),
            &UserKeys::generate(e),
        )
    }

    fn opened(sealed: &[u8], with: &str) -> Outcome<Profile> {
        Profile::decode(KeyFile::open(sealed, &passphrase(with)), "0707")
    }

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.to_owned()))
    }

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack.windows(needle.len()).any(|w| w == needle)
    }

    #[test]
    fn a_profile_opens_with_its_passphrase_only() {
        let profile = profile();
        let sealed = profile.seal(&passphrase("horse"), PassphraseCost::FOR_TESTS, &OsEntropy);
        let again = opened(&sealed, "horse").unwrap();
        assert_eq!((again.label.as_str(), again.user.as_str()), ("documents", "alice"));
        assert_eq!(again.device_keys().id(), profile.device_keys().id());
        assert_eq!(again.user_keys().id(), profile.user_keys().id());
        assert!(again.secret == profile.secret);
        let wrong = opened(&sealed, "zebra").err().unwrap();
        assert_eq!(wrong.to_string(), "wrong passphrase");
    }

    #[test]
    fn neither_names_nor_their_lengths_are_in_the_sealed_bytes() {
        let sealed = profile().seal(&passphrase("horse"), PassphraseCost::FOR_TESTS, &OsEntropy);
        assert!(!contains(&sealed, b"alice") && !contains(&sealed, b"documents"));
        let longer = Profile { label: "d".repeat(60), ..profile() };
        assert_eq!(longer.seal(&passphrase("horse"), PassphraseCost::FOR_TESTS, &OsEntropy).len(), sealed.len());
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let sealed = KeyFile::seal_at_cost(b"nonsense", &passphrase("horse"), PassphraseCost::FOR_TESTS, &OsEntropy);
        assert!(opened(&sealed, "horse").is_err());
    }

    #[test]
    fn state_opens_under_its_secret_only() {
        let secret = SymmetricKey::generate(&OsEntropy);
        let state = State {
            registries: None,
            port: Some(4000),
            grant: None,
            mountpoint: Some(b"/mnt/\xff".to_vec()),
            peers: vec![KnownPeer {
                device: crypto::DeviceId::from_bytes([1; 32]),
                addresses: vec!["127.0.0.1:1".parse().unwrap()],
            }],
        };
        let sealed = state.seal(&secret, &OsEntropy);
        assert!(!contains(&sealed, b"/mnt/"));
        assert_eq!(State::open(&sealed, &secret), Some(state));
        assert_eq!(State::open(&sealed, &SymmetricKey::generate(&OsEntropy)), None);
        assert_eq!(State::open(b"", &secret), None);
    }
}
