//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha §2.3), split where the nonce splits.
//!
//! A 24-byte nonce is a 16-byte *salt*, which HChaCha20 turns with the key into a subkey, and 8 bytes that number
//! messages under that subkey (RFC 8439 with four zero bytes before them). So a block prepares its subkey once and
//! seals each page under it. The inner cipher is aws-lc's; tests hold the whole against the chacha20poly1305 crate.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::cipher::array::Array;
use chacha20::{R20, hchacha};
use zeroize::Zeroizing;

use crate::SymmetricKey;

pub(crate) const SALT_SIZE: usize = 16;
pub(crate) const TAG_SIZE: usize = 16;

/// The subkey for one salt.
pub(crate) struct Subkey(LessSafeKey);

impl Subkey {
    pub(crate) fn new(key: &SymmetricKey, salt: &[u8; SALT_SIZE]) -> Self {
        let subkey = Zeroizing::new(<[u8; 32]>::from(hchacha::<R20>(&Array(*key.expose()), &Array(*salt))));
        let subkey = UnboundKey::new(&CHACHA20_POLY1305, subkey.as_slice()).expect("the key has the cipher's length");
        Self(LessSafeKey::new(subkey))
    }

    /// Appends the sealed form of `plain` to `out`: as many bytes, then the tag.
    pub(crate) fn seal(&self, number: [u8; 8], aad: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(plain);
        self.seal_in_place(number, aad, start, out);
    }

    /// Seals what `out` has from `start` on: its sealed form takes the plain one's place, then comes the tag.
    pub(crate) fn seal_in_place(&self, number: [u8; 8], aad: &[u8], start: usize, out: &mut Vec<u8>) {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(number), Aad::from(aad), &mut out[start..])
            .expect("a message is far below the cipher's limit of 256 GiB");
        out.extend_from_slice(tag.as_ref());
    }

    /// Appends the plain form of `sealed` (which ends with its tag) to `out`, or returns false and leaves `out` alone.
    #[must_use]
    pub(crate) fn open(&self, number: [u8; 8], aad: &[u8], sealed: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_SIZE>() else {
            return false;
        };
        let start = out.len();
        out.resize(start + ciphertext.len(), 0);
        let opened =
            self.0.open_separate_gather(nonce(number), Aad::from(aad), ciphertext, tag, &mut out[start..]).is_ok();
        if !opened {
            out.truncate(start);
        }
        opened
    }
}

fn nonce(number: [u8; 8]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    fn seal(key: [u8; 32], nonce: [u8; 24], aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let (salt, number) = nonce.split_at(16);
        let mut sealed = Vec::new();
        Subkey::new(&SymmetricKey::from_bytes(key), salt.try_into().unwrap()).seal(
            number.try_into().unwrap(),
            aad,
            plain,
            &mut sealed,
        );
        sealed
    }

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn the_draft_s_own_example() {
        let key = std::array::from_fn(|i| 0x80 + i as u8);
        let nonce = std::array::from_fn(|i| 0x40 + i as u8);
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you \
                      only one tip for the future, sunscreen would be it.";
        let sealed = HEXLOWER.encode(&seal(key, nonce, &aad, plain));
        assert!(sealed.starts_with("bd6d179d3e83d43b9576579493c0e939"), "{sealed}");
        assert!(sealed.ends_with("c0875924c1c7987947deafd8780acf49"), "{sealed}");
    }

    #[test]
    fn what_does_not_open_leaves_nothing_behind() {
        let subkey = Subkey::new(&SymmetricKey::from_bytes([7; 32]), &[9; 16]);
        let mut sealed = Vec::new();
        subkey.seal([1; 8], b"", b"plain", &mut sealed);
        let mut out = b"before ".to_vec();
        assert!(!subkey.open([2; 8], b"", &sealed, &mut out));
        assert!(!subkey.open([1; 8], b"", &sealed[..TAG_SIZE - 1], &mut out));
        assert_eq!(out, b"before ");
        assert!(subkey.open([1; 8], b"", &sealed, &mut out));
        assert_eq!(out, b"before plain");
    }

    proptest! {
        /// The crate that defines the format, against the quicker implementation in use.
        #[test]
        fn seals_as_the_reference_does(
            key: [u8; 32], nonce: [u8; 24],
            aad in proptest::collection::vec(any::<u8>(), 0..100),
            plain in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let reference = XChaCha20Poly1305::new(&key.into());
            let expected = reference.encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &aad }).unwrap();
            prop_assert_eq!(seal(key, nonce, &aad, &plain), expected);
        }
    }
}
