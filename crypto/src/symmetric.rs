//! Symmetric keys and what is derived from them.

use std::fmt;
use std::sync::{Arc, OnceLock};

use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

use crate::{Entropy, Hash, KeyId, Label, fixed_bytes, random_array};

/// A 256-bit secret key, wiped when dropped.
///
/// It can be cloned because one key is held by several owners at a time (a key ring, an open file, a running
/// upload); where it lives long, share it through an `Arc`. It serialises to its bare bytes: only into something that
/// is itself sealed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct SymmetricKey([u8; 32]);

impl SymmetricKey {
    /// Makes a new random key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(random_array(entropy))
    }

    /// Takes the bytes as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Shows the secret bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives an independent key for one purpose: HKDF-SHA256 (RFC 5869) without salt, info = `label ‖ 0 ‖ info`.
    pub fn derive(&self, label: Label, info: &[u8]) -> SymmetricKey {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(None, &self.0)
            .expand_multi_info(&[label.as_str().as_bytes(), &[0], info], &mut key)
            .expect("32 bytes are within HKDF-SHA256's limit of 8160");
        SymmetricKey(key)
    }

    /// Returns the public name of this key.
    pub fn id(&self) -> KeyId {
        let hash = Hash::of_bytes(Label::KeyIdHash, &self.0);
        let mut id = [0; KeyId::LEN];
        id.copy_from_slice(&hash.as_bytes()[..KeyId::LEN]);
        KeyId::from_bytes(id)
    }
}

impl fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SymmetricKey(****)")
    }
}

impl PartialEq for SymmetricKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SymmetricKey {}

impl Serialize for SymmetricKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fixed_bytes::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for SymmetricKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fixed_bytes::deserialize(deserializer).map(Self)
    }
}

/// A key that keeps what was derived from it for the common purposes: deriving costs about as much as sealing a
/// record. Cheap to clone; clones share what they keep. It serialises as [`SymmetricKey`] does.
#[derive(Clone)]
pub struct DerivingKey(Arc<Derived>);

struct Derived {
    key: SymmetricKey,
    kept: [OnceLock<SymmetricKey>; KEPT.len()],
}

/// The purposes of which the derived key is kept.
const KEPT: [Label; 4] = [Label::BodyKey, Label::NameKey, Label::BlockKey, Label::NodeKeyWrap];

impl DerivingKey {
    /// As [`SymmetricKey::derive`] without info.
    pub fn derive(&self, label: Label) -> SymmetricKey {
        match KEPT.iter().position(|kept| *kept == label) {
            Some(i) => self.0.kept[i].get_or_init(|| self.0.key.derive(label, b"")).clone(),
            None => self.0.key.derive(label, b""),
        }
    }

    /// The key itself.
    pub fn key(&self) -> &SymmetricKey {
        &self.0.key
    }
}

impl From<SymmetricKey> for DerivingKey {
    fn from(key: SymmetricKey) -> Self {
        Self(Arc::new(Derived { key, kept: Default::default() }))
    }
}

impl From<&SymmetricKey> for DerivingKey {
    fn from(key: &SymmetricKey) -> Self {
        Self::from(key.clone())
    }
}

impl From<&DerivingKey> for DerivingKey {
    fn from(key: &DerivingKey) -> Self {
        key.clone()
    }
}

impl fmt::Debug for DerivingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.key.fmt(f)
    }
}

impl Serialize for DerivingKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.key.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DerivingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SymmetricKey::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    const KEY: SymmetricKey = SymmetricKey::from_bytes([7; 32]);

    #[test]
    fn derivation_is_frozen() {
        assert_eq!(
            HEXLOWER.encode(KEY.derive(Label::BlockKey, b"info").expose()),
            "c38640c09d22d089f1888d72370693588664e946b3cc29ea6fbde7d6d315db3a"
        );
        assert_eq!(KEY.id().to_string(), "6a3c8df3da204344");
    }

    /// The same function from another library.
    #[test]
    fn derivation_is_hkdf_sha256() {
        use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
        let mut expected = [0; 32];
        Salt::new(HKDF_SHA256, &[])
            .extract(KEY.expose())
            .expand(&[Label::BlockKey.as_str().as_bytes(), b"\0info"], HKDF_SHA256)
            .unwrap()
            .fill(&mut expected)
            .unwrap();
        assert_eq!(KEY.derive(Label::BlockKey, b"info").expose(), &expected);
    }

    #[test]
    fn what_is_kept_is_what_would_be_derived() {
        let deriving = DerivingKey::from(KEY);
        for label in [Label::BodyKey, Label::NameKey, Label::BlockKey, Label::NodeKeyWrap, Label::LinkTag] {
            assert_eq!(deriving.derive(label), KEY.derive(label, b""));
            assert_eq!(deriving.clone().derive(label), KEY.derive(label, b""));
        }
    }

    #[test]
    fn labels_and_infos_separate() {
        assert_ne!(KEY.derive(Label::BlockKey, b""), KEY.derive(Label::NameKey, b""));
        assert_ne!(KEY.derive(Label::BlockKey, b""), KEY.derive(Label::BlockKey, b"x"));
        assert_ne!(KEY.derive(Label::BlockKey, b""), KEY);
    }

    #[test]
    fn debug_hides_the_key() {
        assert_eq!(format!("{KEY:?}"), "SymmetricKey(****)");
    }

    #[test]
    fn bytes_come_back() {
        let bytes = rmp_serde::to_vec(&KEY).unwrap();
        assert_eq!(bytes.len(), 34);
        assert_eq!(rmp_serde::from_slice::<SymmetricKey>(&bytes).unwrap(), KEY);
    }
}
