//! The keys of a device and of a user, and what others know of them.
//!
//! Secret halves have no serde: they turn into bytes only where that is written out, and those bytes belong into a
//! key file or a sealed box.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{BoxPublic, BoxSecret, DeviceId, Entropy, Hash, Label, PublicKey, SigningKeys, UserId};

/// Bytes that are not what the keys' `to_bytes` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected {expected} bytes of secret keys, found {found}")]
pub struct BadKeys {
    /// How many bytes these keys have.
    pub expected: usize,
    /// How many there were.
    pub found: usize,
}

/// The secret keys of one device: `signing` is its name and TLS identity, `boxes` opens what is sealed to it.
#[derive(Debug)]
pub struct DeviceKeys {
    /// Signs commits and is the TLS key.
    pub signing: SigningKeys,
    /// Opens what is sealed to the device.
    pub boxes: BoxSecret,
}

/// What everybody knows of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePublic {
    /// The device's public signing key, which is its name.
    pub id: DeviceId,
    /// Where to seal what only the device may open.
    pub box_key: BoxPublic,
}

impl DeviceKeys {
    /// Makes the keys of a new device.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self { signing: SigningKeys::generate(entropy), boxes: BoxSecret::generate(entropy) }
    }

    /// Returns the device's name.
    pub fn id(&self) -> DeviceId {
        DeviceId::from_bytes(*self.signing.public().as_bytes())
    }

    /// Returns what everybody may know.
    pub fn public(&self) -> DevicePublic {
        DevicePublic { id: self.id(), box_key: self.boxes.public() }
    }

    /// Writes the secrets out: `signing seed 32 ‖ box secret 32`.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([*self.signing.seed(), *self.boxes.to_bytes()].concat())
    }

    /// Reads what [`DeviceKeys::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKeys> {
        let bytes: &[u8; 64] = exactly(bytes)?;
        let (signing, boxes) = split_pair(bytes);
        Ok(Self { signing, boxes })
    }
}

/// The secret keys of a user.
///
/// `identity` names the user and never changes. `boxes` is replaced, and `generation` rises, whenever a device is
/// removed.
#[derive(Debug)]
pub struct UserKeys {
    /// Certifies the user's devices and encryption keys; only on the device that made it, or that got it out of an
    /// exported key.
    pub signing: Option<SigningKeys>,
    /// The public half of that.
    pub identity: PublicKey,
    /// Opens what is sealed to the user.
    pub boxes: BoxSecret,
    /// Which of the user's box keys `boxes` is, from 0.
    pub generation: u32,
}

/// What everybody knows of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPublic {
    /// The key that names the user.
    pub signing: PublicKey,
    /// Where to seal what only the user may open.
    pub box_key: BoxPublic,
    /// Which of the user's box keys that is.
    pub generation: u32,
}

impl UserPublic {
    /// Returns the user's name among keys.
    pub fn id(&self) -> UserId {
        UserId::from_bytes(*Hash::of(Label::UserIdHash, &[self.signing.as_bytes()]).as_bytes())
    }
}

impl UserKeys {
    /// Makes the keys of a new user, in generation 0.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self::whole(SigningKeys::generate(entropy), BoxSecret::generate(entropy), 0)
    }

    /// All keys of a user.
    pub fn whole(signing: SigningKeys, boxes: BoxSecret, generation: u32) -> Self {
        Self { identity: signing.public(), signing: Some(signing), boxes, generation }
    }

    /// What a further device of the user `identity` holds.
    pub fn without_signing(identity: PublicKey, boxes: BoxSecret, generation: u32) -> Self {
        Self { signing: None, identity, boxes, generation }
    }

    /// Returns the user's name among keys.
    pub fn id(&self) -> UserId {
        self.public().id()
    }

    /// Returns what everybody may know.
    pub fn public(&self) -> UserPublic {
        UserPublic { signing: self.identity, box_key: self.boxes.public(), generation: self.generation }
    }

    /// Writes the secrets out: `signing seed 32 ‖ box secret 32 ‖ generation u32 LE`; without the signing key
    /// `public key 32 ‖ box secret 32 ‖ generation u32 LE ‖ 0`, which is told by its length.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(WITHOUT_SIGNING));
        match &self.signing {
            Some(signing) => bytes.extend_from_slice(&*signing.seed()),
            None => bytes.extend_from_slice(self.identity.as_bytes()),
        }
        bytes.extend_from_slice(&*self.boxes.to_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        if self.signing.is_none() {
            bytes.push(0);
        }
        bytes
    }

    /// Reads what [`UserKeys::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKeys> {
        let without = bytes.strip_suffix(&[0]).filter(|_| bytes.len() == WITHOUT_SIGNING);
        let keys: &[u8; 68] = exactly(without.unwrap_or(bytes))?;
        let (pair, generation) = keys.split_last_chunk::<4>().expect("68 bytes have a last 4");
        let (pair, generation): (&[u8; 64], _) = (exactly(pair)?, u32::from_le_bytes(*generation));
        let (signing, boxes) = split_pair(pair);
        if without.is_some() {
            let identity = PublicKey::from_bytes(*pair.first_chunk().expect("64 bytes have a first 32"));
            return Ok(Self::without_signing(identity, boxes, generation));
        }
        Ok(Self::whole(signing, boxes, generation))
    }
}

/// Bytes of a user's keys without the signing key.
const WITHOUT_SIGNING: usize = 69;

fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], BadKeys> {
    bytes.try_into().map_err(|_| BadKeys { expected: N, found: bytes.len() })
}

fn split_pair(bytes: &[u8; 64]) -> (SigningKeys, BoxSecret) {
    let seed = bytes.first_chunk().expect("64 bytes have a first 32");
    let secret = bytes.last_chunk().expect("64 bytes have a last 32");
    (SigningKeys::from_seed(*seed), BoxSecret::from_bytes(*secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededEntropy;

    #[test]
    fn device_keys_come_back_from_bytes() {
        let keys = DeviceKeys::generate(&SeededEntropy::new(1));
        let bytes = keys.to_bytes();
        assert_eq!(DeviceKeys::from_bytes(&bytes).unwrap().public(), keys.public());
        assert_eq!(DeviceKeys::from_bytes(&bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn user_keys_come_back_from_bytes() {
        let mut keys = UserKeys::generate(&SeededEntropy::new(1));
        keys.generation = 0x0102_0304;
        let bytes = keys.to_bytes();
        assert_eq!(bytes[64..], [4, 3, 2, 1]);
        assert_eq!(UserKeys::from_bytes(&bytes).unwrap().public(), keys.public());
        assert_eq!(UserKeys::from_bytes(&bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn user_keys_come_back_without_the_signing_key() {
        let whole = UserKeys::generate(&SeededEntropy::new(1));
        let boxes = BoxSecret::from_bytes(*whole.boxes.to_bytes());
        let keys = UserKeys::without_signing(whole.identity, boxes, 7);
        let bytes = keys.to_bytes();
        assert_eq!((bytes.len(), &bytes[..32]), (69, &whole.identity.as_bytes()[..]));
        let again = UserKeys::from_bytes(&bytes).unwrap();
        assert_eq!((again.id(), again.public(), again.signing.is_none()), (whole.id(), keys.public(), true));
        assert_eq!(again.to_bytes(), bytes);
        assert!(UserKeys::from_bytes(&[&bytes[..68], &[1]].concat()).is_err());
    }

    #[test]
    fn bytes_of_another_length_are_refused() {
        for len in (0..100).filter(|&len| len != 64) {
            assert_eq!(DeviceKeys::from_bytes(&vec![1; len]).unwrap_err(), BadKeys { expected: 64, found: len });
        }
        // (69 ones are no keys without the signing key, either.)
        for len in (0..100).filter(|&len| len != 68) {
            assert_eq!(UserKeys::from_bytes(&vec![1; len]).unwrap_err(), BadKeys { expected: 68, found: len });
        }
    }

    #[test]
    fn a_device_is_named_by_its_signing_key() {
        let keys = DeviceKeys::generate(&SeededEntropy::new(1));
        assert_eq!(keys.id().as_bytes(), keys.signing.public().as_bytes());
        assert_eq!(keys.public().id, keys.id());
    }

    #[test]
    fn a_user_is_named_by_the_signing_key_alone() {
        let keys = UserKeys::whole(SigningKeys::from_seed([7; 32]), BoxSecret::from_bytes([7; 32]), 0);
        let renewed = UserKeys::whole(SigningKeys::from_seed([7; 32]), BoxSecret::from_bytes([8; 32]), 1);
        assert_eq!(keys.id(), renewed.id());
        assert_eq!(keys.id().to_string(), "ef0fd7b80545fa0c19b92239a8ff887f235a9d529491dad90135bacf49d099d5");
    }

    #[test]
    fn the_two_halves_are_independent() {
        let keys = DeviceKeys::generate(&SeededEntropy::new(1));
        assert_ne!(*keys.signing.seed(), *keys.boxes.to_bytes());
    }

    #[test]
    fn publics_survive_encoding() {
        let user = UserKeys::generate(&SeededEntropy::new(1)).public();
        let bytes = rmp_serde::to_vec(&user).unwrap();
        assert_eq!(rmp_serde::from_slice::<UserPublic>(&bytes).unwrap(), user);
    }
}
