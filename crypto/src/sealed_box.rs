//! Sealed boxes: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
//!
//! A box is `encapsulated key 32 ‖ ciphertext ‖ tag 16`; the [`Label`] is HPKE's `info`. A box says nothing about who
//! made it: whatever carries it is signed.

use std::fmt;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::entropy::EntropyRng;
use crate::xchacha::TAG_SIZE;
use crate::{Entropy, Label, OpenError, define_id, random_array};

type Dhkem = X25519HkdfSha256;

const ENCAPSULATED_SIZE: usize = 32;

/// How much longer a box is than what it holds.
pub const BOX_OVERHEAD: usize = ENCAPSULATED_SIZE + TAG_SIZE;

define_id! {
    /// The public half of a [`BoxSecret`], an X25519 key: anybody can seal to it.
    pub struct BoxPublic, 32
}

/// A box key to which nothing can be sealed: one of the few X25519 points that would give everyone the same secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("box key {0:?} is not a sound X25519 key")]
pub struct BadBoxKey(pub BoxPublic);

impl BoxPublic {
    /// Seals `plain`, bound to `label` and `aad`, to whoever holds the secret half.
    ///
    /// The key came from somebody else, so it may be one that nothing can be sealed to.
    pub fn seal(&self, label: Label, aad: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, BadBoxKey> {
        let bad = |_| BadBoxKey(*self);
        let recipient = <Dhkem as Kem>::PublicKey::from_bytes(self.as_bytes()).map_err(bad)?;
        let (encapsulated, ciphertext) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Dhkem>(
            &OpModeS::Base,
            &recipient,
            label.as_str().as_bytes(),
            plain,
            aad,
            &mut EntropyRng(entropy),
        )
        .map_err(bad)?;
        let mut sealed = Vec::with_capacity(plain.len() + BOX_OVERHEAD);
        sealed.extend_from_slice(&encapsulated.to_bytes());
        sealed.extend_from_slice(&ciphertext);
        Ok(sealed)
    }
}

/// A secret X25519 key that opens what was sealed to its public half; wiped when dropped.
pub struct BoxSecret {
    secret: Zeroizing<[u8; 32]>,
    public: BoxPublic,
}

impl BoxSecret {
    /// Makes a new random key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self::from_bytes(random_array(entropy))
    }

    /// Makes the key that belongs to 32 secret bytes. Any bytes will do: X25519 clamps them (RFC 7748 §5).
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        let public = <Dhkem as Kem>::sk_to_pk(&private_key(&secret));
        Self { secret, public: BoxPublic(public.to_bytes().into()) }
    }

    /// Returns the secret bytes.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.secret.clone()
    }

    /// Returns the public half.
    pub fn public(&self) -> BoxPublic {
        self.public
    }

    /// Opens what [`BoxPublic::seal`] made for this key under the same `label` and `aad`.
    pub fn open(&self, label: Label, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (encapsulated, ciphertext) = sealed.split_first_chunk::<ENCAPSULATED_SIZE>().ok_or(OpenError::Malformed)?;
        if ciphertext.len() < TAG_SIZE {
            return Err(OpenError::Malformed);
        }
        let encapsulated = <Dhkem as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| OpenError::Malformed)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Dhkem>(
            &OpModeR::Base,
            &private_key(&self.secret),
            &encapsulated,
            label.as_str().as_bytes(),
            ciphertext,
            aad,
        )
        .map(Zeroizing::new)
        .map_err(|_| OpenError::Forged)
    }
}

impl fmt::Debug for BoxSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxSecret").field(&self.public).finish()
    }
}

fn private_key(secret: &[u8; 32]) -> <Dhkem as Kem>::PrivateKey {
    <Dhkem as Kem>::PrivateKey::from_bytes(secret).expect("any 32 bytes are an X25519 key")
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::SeededEntropy;

    const LABEL: Label = Label::JoinBox;

    fn secret() -> BoxSecret {
        BoxSecret::from_bytes([7; 32])
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        secret().public().seal(LABEL, b"aad", plain, &SeededEntropy::new(1)).unwrap()
    }

    #[test]
    fn the_format_is_frozen() {
        assert_eq!(secret().public().to_string(), "13be4feaeaf204c7fd3358fc9c00721881d174278128227ec674f37f7fe97b6d");
        assert_eq!(
            HEXLOWER.encode(&sealed(b"plain")),
            "d92f57ec277dcd4147a2894256a82944d245fc1adf55178b21246ab75ff8300bbfe82233e185c92561351b31e56859911ab36a5a82"
        );
    }

    #[test]
    fn another_key_label_or_binding_is_refused() {
        let sealed = sealed(b"plain");
        let other = BoxSecret::generate(&SeededEntropy::new(2));
        assert_eq!(other.open(LABEL, b"aad", &sealed), Err(OpenError::Forged));
        assert_eq!(secret().open(Label::BoxEpochKey, b"aad", &sealed), Err(OpenError::Forged));
        assert_eq!(secret().open(LABEL, b"", &sealed), Err(OpenError::Forged));
    }

    #[test]
    fn altered_boxes_are_refused() {
        let sealed = sealed(b"plain");
        // The top bit of an X25519 key is ignored (RFC 7748 §5), but HPKE binds the encapsulated key as sent.
        for at in [0, 31, 32, 36, 37, sealed.len() - 1] {
            let mut forged = sealed.clone();
            forged[at] ^= 0x80;
            assert_eq!(secret().open(LABEL, b"aad", &forged), Err(OpenError::Forged), "byte {at}");
        }
        for len in 0..BOX_OVERHEAD {
            assert_eq!(secret().open(LABEL, b"aad", &sealed[..len]), Err(OpenError::Malformed));
        }
    }

    #[test]
    fn nothing_is_sealed_to_a_key_that_everybody_could_open() {
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            let key = BoxPublic::from_bytes(point);
            assert_eq!(key.seal(LABEL, b"", b"plain", &SeededEntropy::new(1)), Err(BadBoxKey(key)));
        }
    }

    #[test]
    fn a_box_with_a_degenerate_key_is_refused() {
        assert_eq!(secret().open(LABEL, b"", &[0; 64]), Err(OpenError::Forged));
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        assert_eq!(format!("{:?}", secret()), format!("BoxSecret({:?})", secret().public()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sealed_opens(key: [u8; 32], seed: u64, plain in vec(any::<u8>(), 0..500)) {
            let secret = BoxSecret::from_bytes(key);
            prop_assert_eq!(*secret.to_bytes(), key);
            let sealed = secret.public().seal(LABEL, b"aad", &plain, &SeededEntropy::new(seed)).unwrap();
            prop_assert_eq!(sealed.len(), plain.len() + BOX_OVERHEAD);
            prop_assert_eq!(&*secret.open(LABEL, b"aad", &sealed).unwrap(), &plain);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(secret().open(LABEL, b"", &bytes).is_err());
        }
    }
}
