//! Ed25519 signatures (RFC 8032), always under a [`Label`].
//!
//! What is signed is `label ‖ 0 ‖ message`. [`verify`] is the only way to check one, on every path: replicas whose
//! checks disagreed on a crafted signature would hold different volumes. It is strict (no small-order keys or points,
//! no non-canonical encodings) and never batched.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{DeviceId, Entropy, Label, define_id, random_array};

define_id! {
    /// An Ed25519 signature.
    pub struct Signature, 64
}

define_id! {
    /// An Ed25519 public key as its owner states it; whether it is a sound one shows in [`verify`].
    pub struct PublicKey, 32
}

impl From<&PublicKey> for PublicKey {
    fn from(key: &PublicKey) -> Self {
        *key
    }
}

impl From<DeviceId> for PublicKey {
    fn from(device: DeviceId) -> Self {
        PublicKey(*device.as_bytes())
    }
}

impl From<&DeviceId> for PublicKey {
    fn from(device: &DeviceId) -> Self {
        PublicKey(*device.as_bytes())
    }
}

/// A signature that does not belong to its key, label and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("signature does not match {key:?}")]
pub struct BadSignature {
    /// Who is said to have signed.
    pub key: PublicKey,
}

/// Checks that the holder of `key` (a [`PublicKey`] or [`DeviceId`]) signed `message` under `label`.
pub fn verify(
    label: Label,
    key: impl Into<PublicKey>,
    message: &[u8],
    signature: &Signature,
) -> Result<(), BadSignature> {
    let key = key.into();
    let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    VerifyingKey::from_bytes(key.as_bytes())
        .and_then(|verifying| verifying.verify_strict(&labelled(label, message), &signature))
        .map_err(|_| BadSignature { key })
}

/// A secret Ed25519 key, wiped when dropped.
pub struct SigningKeys(SigningKey);

impl SigningKeys {
    /// Makes a new random key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(SigningKey::from_bytes(&Zeroizing::new(random_array(entropy))))
    }

    /// Makes the key that belongs to a secret seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&Zeroizing::new(seed)))
    }

    /// Returns the secret seed.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` under `label`. The same input gives the same signature.
    pub fn sign(&self, label: Label, message: &[u8]) -> Signature {
        Signature(self.0.sign(&labelled(label, message)).to_bytes())
    }

    /// Encodes the secret key for TLS, as PKCS#8 version 1 (RFC 5208 with the identifier of RFC 8410 §7).
    ///
    /// Version 1, which leaves the public key out, is the form that every reader accepts. A TLS handshake signs a
    /// string that starts with 64 spaces (RFC 8446 §4.4.3), a certificate one that starts with the byte 0x30: neither
    /// can be taken for anything signed under a label.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, // SEQUENCE of 46 bytes
            0x02, 0x01, 0x00, // version 0, which the standard calls v1
            0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, // algorithm 1.3.101.112, Ed25519
            0x04, 0x22, 0x04, 0x20, // OCTET STRING holding an OCTET STRING of 32 bytes
        ];
        let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + 32));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(self.0.as_bytes());
        der
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKeys").field(&self.public()).finish()
    }
}

fn labelled(label: Label, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(label.as_str().len() + 1 + message.len());
    bytes.extend_from_slice(label.as_str().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(message);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SeededEntropy;

    const LABEL: Label = Label::CommitSignature;

    fn keys() -> SigningKeys {
        SigningKeys::from_seed([7; 32])
    }

    #[test]
    fn signatures_are_frozen() {
        assert_eq!(keys().public().to_string(), "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c");
        assert_eq!(
            keys().sign(LABEL, b"message").to_string(),
            "8632c54a4e6f36ee8deb5e6601cb029007ac5c52bd57bbc369742ffa16defb9529f56dbd43a55cc75961da06fe83f8123b694db3829fa2cca724651190f73109"
        );
    }

    #[test]
    fn a_signature_holds_for_its_key_label_and_message_only() {
        let (keys, other) = (keys(), SigningKeys::generate(&SeededEntropy::new(1)));
        let signature = keys.sign(LABEL, b"message");
        let device = DeviceId::from_bytes(*keys.public().as_bytes());
        assert_eq!(verify(LABEL, keys.public(), b"message", &signature), Ok(()));
        assert_eq!(verify(LABEL, device, b"message", &signature), Ok(()));
        let refused = Err(BadSignature { key: keys.public() });
        assert_eq!(verify(LABEL, keys.public(), b"massage", &signature), refused);
        assert_eq!(verify(Label::TicketProof, keys.public(), b"message", &signature), refused);
        assert!(verify(LABEL, other.public(), b"message", &signature).is_err());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let signature = keys().sign(LABEL, b"message");
        for bit in 0..512 {
            let mut forged = *signature.as_bytes();
            forged[bit / 8] ^= 1 << (bit % 8);
            let forged = Signature::from_bytes(forged);
            assert!(verify(LABEL, keys().public(), b"message", &forged).is_err(), "bit {bit}");
        }
    }

    /// The neutral point as key and as R, with S = 0, satisfies the equation for every message. A lax check would
    /// let whoever publishes such a key disown or share its signatures.
    #[test]
    fn a_small_order_key_is_refused() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let (key, signature) = (PublicKey::from_bytes(neutral), Signature::from_bytes(signature));
        assert!(verify(LABEL, key, b"anything", &signature).is_err());
    }

    /// S + L solves the same equation as S: a second signature over the same commit, made without the key.
    #[test]
    fn a_second_form_of_a_signature_is_refused() {
        const L: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut forged = *keys().sign(LABEL, b"message").as_bytes();
        let mut carry = 0;
        for (byte, l) in forged[32..].iter_mut().zip(L) {
            let sum = u16::from(*byte) + u16::from(l) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        assert!(verify(LABEL, keys().public(), b"message", &Signature::from_bytes(forged)).is_err());
    }

    #[test]
    fn tls_libraries_take_the_pkcs8_form() {
        let der = keys().to_pkcs8_der();
        let pkcs8 = rustls::pki_types::PrivatePkcs8KeyDer::from(der.as_slice());
        let certifier = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519).unwrap();
        assert_eq!(certifier.public_key_raw(), keys().public().as_bytes());
        assert!(rcgen::KeyPair::try_from(der.as_slice()).unwrap().is_compatible(&rcgen::PKCS_ED25519));
        let tls = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(&pkcs8).unwrap();
        let signer = tls.choose_scheme(&[rustls::SignatureScheme::ED25519]).unwrap();
        assert_eq!(signer.sign(b"hello").unwrap(), keys().0.sign(b"hello").to_bytes());
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        assert_eq!(format!("{:?}", keys()), format!("SigningKeys({:?})", keys().public()));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(seed: [u8; 32], message in proptest::collection::vec(any::<u8>(), 0..500)) {
            let keys = SigningKeys::from_seed(seed);
            prop_assert_eq!(*keys.seed(), seed);
            let signature = keys.sign(LABEL, &message);
            prop_assert_eq!(verify(LABEL, keys.public(), &message, &signature), Ok(()));
        }

        #[test]
        fn arbitrary_bytes_are_refused(key: [u8; 32], halves: [[u8; 32]; 2]) {
            let signature = Signature::try_from(halves.concat().as_slice()).unwrap();
            prop_assert!(verify(LABEL, PublicKey::from_bytes(key), b"", &signature).is_err());
        }
    }
}
