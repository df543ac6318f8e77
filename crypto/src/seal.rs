//! Sealing: XChaCha20-Poly1305 under a random 24-byte nonce, so any number of values may share a key.
//!
//! A sealed value is `nonce 24 ‖ ciphertext ‖ tag 16`. The padded form seals `length u32 LE ‖ plain ‖ zeros`, as long
//! as [`padded_len`] says.

use thiserror::Error;

use crate::xchacha::{SALT_SIZE, Subkey, TAG_SIZE};
use crate::{Entropy, SymmetricKey, padded_len, random_array};

const NONCE_SIZE: usize = 24;

/// How much longer a sealed value is than its plain form.
pub const SEAL_OVERHEAD: usize = NONCE_SIZE + TAG_SIZE;

/// Why sealed bytes did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// No honest sealer makes bytes of this length, or with this padding.
    #[error("sealed bytes are malformed")]
    Malformed,
    /// A block names another key than the one given: find that one.
    #[error("sealed under another key")]
    OtherKey,
    /// The bytes, or what they are bound to, were altered; or the key is the wrong one.
    #[error("sealed bytes do not match their key or what they are bound to")]
    Forged,
}

/// Seals `plain`, bound to `aad`, which is needed again to open it.
pub fn seal(key: &SymmetricKey, aad: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    seal_with_nonce(key, aad, plain, random_array(entropy))
}

/// Opens what [`seal`] made under the same key and `aad`.
pub fn open(key: &SymmetricKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_SIZE>().ok_or(OpenError::Malformed)?;
    if sealed.len() < TAG_SIZE {
        return Err(OpenError::Malformed);
    }
    let (salt, number) = split_nonce(nonce);
    let mut plain = Vec::with_capacity(sealed.len());
    if !Subkey::new(key, &salt).open(number, aad, sealed, &mut plain) {
        return Err(OpenError::Forged);
    }
    Ok(plain)
}

/// Seals `plain` so that only its padded length shows.
pub fn seal_padded(key: &SymmetricKey, aad: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    let len = u32::try_from(plain.len()).expect("a padded value is far below 4 GiB");
    let padded = padded_len(4 + plain.len());
    seal_in_place(key, aad, padded, random_array(entropy), |out| {
        let end = out.len() + padded;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(plain);
        out.resize(end, 0);
    })
}

/// Opens what [`seal_padded`] made under the same key and `aad`.
pub fn open_padded(key: &SymmetricKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut padded = open(key, aad, sealed)?;
    let (len, rest) = padded.split_first_chunk().ok_or(OpenError::Malformed)?;
    let len = u32::from_le_bytes(*len) as usize;
    // Exactly what a sealer makes: a value has one padded form.
    let zeros = rest.get(len..).ok_or(OpenError::Malformed)?;
    if padded.len() != padded_len(4 + len) || zeros.iter().any(|&byte| byte != 0) {
        return Err(OpenError::Malformed);
    }
    padded.copy_within(4..4 + len, 0);
    padded.truncate(len);
    Ok(padded)
}

fn seal_with_nonce(key: &SymmetricKey, aad: &[u8], plain: &[u8], nonce: [u8; NONCE_SIZE]) -> Vec<u8> {
    seal_in_place(key, aad, plain.len(), nonce, |out| out.extend_from_slice(plain))
}

/// Seals the `len` bytes that `plain` appends. They have no other copy.
fn seal_in_place(
    key: &SymmetricKey,
    aad: &[u8],
    len: usize,
    nonce: [u8; NONCE_SIZE],
    plain: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let (salt, number) = split_nonce(&nonce);
    let mut sealed = Vec::with_capacity(len + SEAL_OVERHEAD);
    sealed.extend_from_slice(&nonce);
    plain(&mut sealed);
    Subkey::new(key, &salt).seal_in_place(number, aad, NONCE_SIZE, &mut sealed);
    sealed
}

fn split_nonce(nonce: &[u8; NONCE_SIZE]) -> ([u8; SALT_SIZE], [u8; 8]) {
    let (salt, number) = nonce.split_at(SALT_SIZE);
    (salt.try_into().expect("the first 16 of 24 bytes"), number.try_into().expect("the last 8 of 24 bytes"))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::SeededEntropy;

    const KEY: SymmetricKey = SymmetricKey::from_bytes([7; 32]);
    const OTHER: SymmetricKey = SymmetricKey::from_bytes([8; 32]);

    fn entropy() -> SeededEntropy {
        SeededEntropy::new(1)
    }

    #[test]
    fn the_format_is_frozen() {
        assert_eq!(
            HEXLOWER.encode(&seal_with_nonce(&KEY, b"aad", b"plain", [9; 24])),
            "090909090909090909090909090909090909090909090909ce1e83e3123fecc0c542c5c0d3c100f3ac7c8a3863"
        );
    }

    #[test]
    fn equal_values_do_not_look_equal() {
        let entropy = entropy();
        assert_ne!(seal(&KEY, b"", b"same", &entropy), seal(&KEY, b"", b"same", &entropy));
    }

    #[test]
    fn another_key_or_binding_is_refused() {
        let sealed = seal(&KEY, b"aad", b"plain", &entropy());
        assert_eq!(open(&OTHER, b"aad", &sealed), Err(OpenError::Forged));
        assert_eq!(open(&KEY, b"aae", &sealed), Err(OpenError::Forged));
        assert_eq!(open(&KEY, b"", &sealed), Err(OpenError::Forged));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let sealed = seal(&KEY, b"aad", b"plain", &entropy());
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&KEY, b"aad", &forged), Err(OpenError::Forged), "bit {bit}");
        }
    }

    #[test]
    fn truncation_is_refused() {
        let sealed = seal(&KEY, b"", b"plain", &entropy());
        for len in 0..sealed.len() {
            let expected = if len < SEAL_OVERHEAD { OpenError::Malformed } else { OpenError::Forged };
            assert_eq!(open(&KEY, b"", &sealed[..len]), Err(expected), "{len} bytes");
        }
    }

    #[test]
    fn padding_hides_the_length() {
        let len = |plain: &[u8]| seal_padded(&KEY, b"", plain, &entropy()).len();
        assert_eq!(len(b""), 64 + SEAL_OVERHEAD);
        assert_eq!(len(&[1; 60]), 64 + SEAL_OVERHEAD);
        assert_eq!(len(&[1; 61]), 72 + SEAL_OVERHEAD);
    }

    /// A member who holds the key can seal any padding, but only one reads.
    #[test]
    fn crafted_padding_is_refused() {
        let refused = |padded: &[u8], flaw: &str| {
            let sealed = seal(&KEY, b"", padded, &entropy());
            assert_eq!(open_padded(&KEY, b"", &sealed), Err(OpenError::Malformed), "{flaw}");
        };
        let padded = |len: u32, total: usize| {
            let mut padded = vec![0; total];
            padded[..4].copy_from_slice(&len.to_le_bytes());
            padded
        };
        assert_eq!(open_padded(&KEY, b"", &seal(&KEY, b"", &padded(5, 64), &entropy())), Ok(vec![0; 5]));
        refused(&padded(5, 65), "one zero too many");
        refused(&padded(5, 63), "one zero too few");
        refused(&padded(61, 64), "longer than what is there");
        refused(&padded(u32::MAX, 64), "far longer than what is there");
        refused(b"abc", "no room for a length");
        let mut dirty = padded(5, 64);
        dirty[63] = 1;
        refused(&dirty, "not zeros");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(aad in vec(any::<u8>(), 0..50), plain in vec(any::<u8>(), 0..3000)) {
            let sealed = seal(&KEY, &aad, &plain, &entropy());
            prop_assert_eq!(sealed.len(), plain.len() + SEAL_OVERHEAD);
            prop_assert_eq!(open(&KEY, &aad, &sealed).unwrap(), plain.clone());
            let padded = seal_padded(&KEY, &aad, &plain, &entropy());
            prop_assert_eq!(padded.len(), padded_len(4 + plain.len()) + SEAL_OVERHEAD);
            prop_assert_eq!(open_padded(&KEY, &aad, &padded).unwrap(), plain);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&KEY, b"", &bytes).is_err());
            // Sealed by a key holder, so that the padding is reached.
            let _ = open_padded(&KEY, b"", &seal(&KEY, b"", &bytes, &entropy()));
        }
    }
}
