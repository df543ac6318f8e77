//! Stored blocks: the unit of a file's contents that is sealed, hashed, kept and sent.
//!
//! A stored block is `key id 8 ‖ salt 16 ‖ pages`, each page up to [`PAGE_SIZE`] plain bytes sealed with
//! XChaCha20-Poly1305 under the nonce `salt ‖ page number u64 LE`: `ciphertext ‖ tag 16`. Every page but the last is full
//! and none is empty, so a plain length has one stored length. The salt is fresh at every sealing: no (key,
//! nonce) repeats when a new version re-seals a block.
//!
//! A page proves that a key holder sealed it at this place of a block with this salt. That it belongs to *this
//! file* and that no page is missing at the end is proven by the block's name, the hash of all stored bytes: who
//! opens single pages relies on whoever stored the block having checked its name.

use std::ops::Range;

use crate::xchacha::{SALT_SIZE, Subkey, TAG_SIZE};
use crate::{Entropy, KeyId, OpenError, SymmetricKey, random_array};

/// The most plain bytes in a block.
pub const BLOCK_SIZE: usize = 65536;

/// Plain bytes of a page, the least that is decrypted at once.
///
/// Measured on a server CPU: pages of 4, 8 and 16 KiB open a whole block in 26.4, 24.2 and 24.1 µs, and one page in
/// 1.7, 3.0 and 6.0 µs. So 8 KiB reads whole blocks as quickly as larger pages do, and small reads twice as quickly.
pub const PAGE_SIZE: usize = 8192;

/// Stored bytes before the first page.
pub const BLOCK_HEADER_SIZE: usize = KeyId::LEN + SALT_SIZE;

const SEALED_PAGE_SIZE: usize = PAGE_SIZE + TAG_SIZE;
const PAGES: usize = BLOCK_SIZE / PAGE_SIZE;

const _: () = assert!(BLOCK_SIZE.is_multiple_of(PAGE_SIZE) && BLOCK_HEADER_SIZE == 24);

/// The clear start of a stored block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    key_id: KeyId,
    salt: [u8; SALT_SIZE],
}

impl BlockHeader {
    /// Reads the header from the start of a stored block (or of as much of one as was read).
    pub fn parse(stored: &[u8]) -> Result<BlockHeader, OpenError> {
        let header = stored.first_chunk::<BLOCK_HEADER_SIZE>().ok_or(OpenError::Malformed)?;
        let (key_id, salt) = header.split_at(KeyId::LEN);
        Ok(BlockHeader {
            key_id: KeyId::try_from(key_id).map_err(|_| OpenError::Malformed)?,
            salt: salt.try_into().map_err(|_| OpenError::Malformed)?,
        })
    }

    /// Returns the id of the key that opens the block.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }
}

/// Appends the stored form of `plain` to `out`. `plain` has 1 to [`BLOCK_SIZE`] bytes, padding included.
pub fn seal_block(key: &SymmetricKey, plain: &[u8], entropy: &dyn Entropy, out: &mut Vec<u8>) {
    seal_block_with_salt(key, plain, random_array(entropy), out);
}

/// Appends the plain bytes of a stored block to `out`, which stays as it was if that fails.
pub fn open_block(key: &SymmetricKey, stored: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
    let header = BlockHeader::parse(stored)?;
    open_pages(key, &header, 0, &stored[BLOCK_HEADER_SIZE..], out)
}

/// Appends the plain bytes of consecutive whole sealed pages, the first of which is number `first_page`, to `out`,
/// which stays as it was if that fails.
pub fn open_pages(
    key: &SymmetricKey,
    header: &BlockHeader,
    first_page: u64,
    sealed_pages: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpenError> {
    let pages = sealed_pages.len().div_ceil(SEALED_PAGE_SIZE) as u64;
    if pages == 0 || first_page >= PAGES as u64 || pages > PAGES as u64 - first_page {
        return Err(OpenError::Malformed);
    }
    if key.id() != header.key_id {
        return Err(OpenError::OtherKey);
    }
    let start = out.len();
    out.reserve(sealed_pages.len());
    let subkey = Subkey::new(key, &header.salt);
    for (number, page) in (first_page..).zip(sealed_pages.chunks(SEALED_PAGE_SIZE)) {
        let opened = if page.len() <= TAG_SIZE {
            Err(OpenError::Malformed)
        } else if subkey.open(number.to_le_bytes(), b"", page, out) {
            Ok(())
        } else {
            Err(OpenError::Forged)
        };
        if opened.is_err() {
            out.truncate(start);
            return opened;
        }
    }
    Ok(())
}

/// Returns the stored length of a block with `plain_len` plain bytes.
pub fn stored_len(plain_len: usize) -> usize {
    BLOCK_HEADER_SIZE + plain_len + plain_len.div_ceil(PAGE_SIZE) * TAG_SIZE
}

/// Returns the plain length of a block with `stored_len` stored bytes, or refuses a length that no block has.
pub fn plain_len(stored_len: usize) -> Result<usize, OpenError> {
    let pages = stored_len.checked_sub(BLOCK_HEADER_SIZE).ok_or(OpenError::Malformed)?;
    let count = pages.div_ceil(SEALED_PAGE_SIZE);
    let last = pages % SEALED_PAGE_SIZE;
    if count == 0 || count > PAGES || (1..=TAG_SIZE).contains(&last) {
        return Err(OpenError::Malformed);
    }
    Ok(pages - count * TAG_SIZE)
}

/// Returns the number of the page that holds the plain byte at `plain_offset`.
pub fn first_page(plain_offset: usize) -> u64 {
    (plain_offset / PAGE_SIZE) as u64
}

/// Returns where in a stored block of `plain_len` plain bytes the whole pages lie that cover `len` plain bytes from
/// `plain_offset`; empty when nothing of that lies inside the block.
///
/// Offsets count from the start of the stored block, so no range reaches into its header. The pages open with
/// [`open_pages`] from [`first_page`]`(plain_offset)`; the wanted bytes start `plain_offset % PAGE_SIZE` into the result.
pub fn stored_range(plain_offset: usize, len: usize, plain_len: usize) -> Range<usize> {
    let page_start = |page: usize| BLOCK_HEADER_SIZE + page * SEALED_PAGE_SIZE;
    let end = plain_offset.saturating_add(len).min(plain_len);
    if plain_offset >= end {
        return BLOCK_HEADER_SIZE..BLOCK_HEADER_SIZE;
    }
    let start = page_start(plain_offset / PAGE_SIZE);
    start..page_start(end.div_ceil(PAGE_SIZE)).min(stored_len(plain_len))
}

fn seal_block_with_salt(key: &SymmetricKey, plain: &[u8], salt: [u8; SALT_SIZE], out: &mut Vec<u8>) {
    assert!((1..=BLOCK_SIZE).contains(&plain.len()), "a block holds 1 to {BLOCK_SIZE} bytes");
    out.reserve(stored_len(plain.len()));
    out.extend_from_slice(key.id().as_bytes());
    out.extend_from_slice(&salt);
    let subkey = Subkey::new(key, &salt);
    for (number, page) in (0u64..).zip(plain.chunks(PAGE_SIZE)) {
        subkey.seal(number.to_le_bytes(), b"", page, out);
    }
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{Aead, KeyInit};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{Hash, Label, SeededEntropy};

    const KEY: SymmetricKey = SymmetricKey::from_bytes([7; 32]);
    const OTHER: SymmetricKey = SymmetricKey::from_bytes([8; 32]);

    fn plain(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        seal_block(&KEY, plain, &SeededEntropy::new(1), &mut stored);
        stored
    }

    fn opened(stored: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut out = Vec::new();
        open_block(&KEY, stored, &mut out).map(|()| out)
    }

    /// Lengths around every edge of the format.
    fn lengths() -> impl Iterator<Item = usize> {
        [1, PAGE_SIZE, BLOCK_SIZE / 2, BLOCK_SIZE - PAGE_SIZE, BLOCK_SIZE]
            .into_iter()
            .flat_map(|len| [len - 1, len, len + 1])
            .filter(|len| (1..=BLOCK_SIZE).contains(len))
    }

    #[test]
    fn the_format_is_frozen() {
        let mut stored = Vec::new();
        seal_block_with_salt(&KEY, &plain(20_000), [9; 16], &mut stored);
        assert_eq!(
            Hash::of_bytes(Label::BlockHash, &stored).to_string(),
            "d542c46662f0c3a62e309fea453379b4b7a030cec5583f8e773b5f55cde26992"
        );
    }

    /// The layout, told with the crate that defines the cipher.
    #[test]
    fn pages_are_xchacha20_poly1305_numbered_from_zero() {
        let plain = plain(2 * PAGE_SIZE + 5);
        let mut expected = KEY.id().as_bytes().to_vec();
        expected.extend_from_slice(&[9; 16]);
        for (number, page) in plain.chunks(PAGE_SIZE).enumerate() {
            let mut nonce = [9; 24];
            nonce[16..].copy_from_slice(&(number as u64).to_le_bytes());
            let cipher = XChaCha20Poly1305::new(KEY.expose().into());
            expected.extend(cipher.encrypt(&XNonce::from(nonce), page).unwrap());
        }
        let mut stored = Vec::new();
        seal_block_with_salt(&KEY, &plain, [9; 16], &mut stored);
        assert!(stored == expected);
    }

    #[test]
    fn blocks_of_every_edge_length_open() {
        for len in lengths() {
            let stored = sealed(&plain(len));
            assert_eq!(stored.len(), stored_len(len));
            assert_eq!(plain_len(stored.len()), Ok(len));
            assert!(opened(&stored).unwrap() == plain(len), "{len} bytes");
        }
    }

    #[test]
    fn every_stored_length_is_one_plain_length_or_refused() {
        let mut plain_lens = (1..=BLOCK_SIZE).peekable();
        for stored in 0..stored_len(BLOCK_SIZE) + 100 {
            let expected = plain_lens.next_if(|&len| stored_len(len) == stored);
            assert_eq!(plain_len(stored).ok(), expected, "{stored}");
        }
        assert_eq!(plain_lens.next(), None);
    }

    #[test]
    fn sealing_twice_takes_another_salt() {
        let entropy = SeededEntropy::new(1);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        seal_block(&KEY, b"same", &entropy, &mut a);
        seal_block(&KEY, b"same", &entropy, &mut b);
        assert_ne!(a[8..24], b[8..24]);
        assert_ne!(a[24..], b[24..]);
    }

    #[test]
    #[should_panic(expected = "a block holds")]
    fn an_empty_block_is_our_own_mistake() {
        sealed(b"");
    }

    #[test]
    fn the_header_names_the_key() {
        let stored = sealed(b"x");
        assert_eq!(BlockHeader::parse(&stored).unwrap().key_id(), KEY.id());
        assert_eq!(BlockHeader::parse(&stored[..23]), Err(OpenError::Malformed));
        assert_eq!(open_block(&OTHER, &stored, &mut Vec::new()), Err(OpenError::OtherKey));
    }

    #[test]
    fn flipped_bits_are_refused() {
        let stored = sealed(&plain(PAGE_SIZE + 10));
        let len = stored.len();
        for at in [8, 23, 24, 24 + PAGE_SIZE, 24 + PAGE_SIZE + TAG_SIZE, len - 17, len - 1] {
            let mut forged = stored.clone();
            forged[at] ^= 1;
            assert_eq!(opened(&forged), Err(OpenError::Forged), "byte {at}");
        }
        let mut forged = stored;
        forged[0] ^= 1;
        assert_eq!(opened(&forged), Err(OpenError::OtherKey));
    }

    #[test]
    fn pages_cannot_change_places() {
        let mut stored = sealed(&plain(2 * PAGE_SIZE));
        let (first, second) = stored[BLOCK_HEADER_SIZE..].split_at_mut(SEALED_PAGE_SIZE);
        first.swap_with_slice(second);
        assert_eq!(opened(&stored), Err(OpenError::Forged));
    }

    #[test]
    fn a_failure_leaves_the_output_alone() {
        let mut stored = sealed(&plain(2 * PAGE_SIZE));
        *stored.last_mut().unwrap() ^= 1;
        let mut out = b"before".to_vec();
        assert_eq!(open_block(&KEY, &stored, &mut out), Err(OpenError::Forged));
        assert_eq!(out, b"before");
    }

    #[test]
    fn pages_beyond_a_block_are_refused() {
        let stored = sealed(&plain(BLOCK_SIZE));
        let header = BlockHeader::parse(&stored).unwrap();
        let page = &stored[stored.len() - SEALED_PAGE_SIZE..];
        let last = PAGES as u64 - 1;
        let open = |first, pages: &[u8]| open_pages(&KEY, &header, first, pages, &mut Vec::new());
        assert_eq!(open(last, page), Ok(()));
        assert_eq!(open(last + 1, page), Err(OpenError::Malformed));
        assert_eq!(open(u64::MAX, page), Err(OpenError::Malformed));
        assert_eq!(open(last, &[page, page].concat()), Err(OpenError::Malformed));
        assert_eq!(open(last, b""), Err(OpenError::Malformed));
        assert_eq!(open(last, &page[..TAG_SIZE]), Err(OpenError::Malformed));
    }

    #[test]
    fn ranges_outside_a_block_are_empty() {
        for (offset, len, plain_len) in [(0, 0, 10), (10, 1, 10), (usize::MAX, usize::MAX, 10), (0, 1, 0)] {
            assert!(stored_range(offset, len, plain_len).is_empty(), "{offset} {len} {plain_len}");
        }
    }

    proptest! {
        #[test]
        fn a_range_opens_to_the_bytes_asked_for(
            plain_len in 1..=BLOCK_SIZE, offset in 0..BLOCK_SIZE, len in 1..BLOCK_SIZE,
        ) {
            let plain = plain(plain_len);
            let stored = sealed(&plain);
            let header = BlockHeader::parse(&stored).unwrap();
            let offset = offset % plain_len;
            let range = stored_range(offset, len, plain_len);
            let mut out = Vec::new();
            open_pages(&KEY, &header, first_page(offset), &stored[range.clone()], &mut out).unwrap();
            let wanted = &plain[offset..(offset + len).min(plain_len)];
            let skip = offset % PAGE_SIZE;
            prop_assert!(&out[skip..skip + wanted.len()] == wanted);
            // No page too many.
            prop_assert!(out.len() < skip + wanted.len() + PAGE_SIZE);
        }

        #[test]
        fn arbitrary_bytes_are_refused(mut bytes in vec(any::<u8>(), 0..3 * PAGE_SIZE), right_key: bool) {
            if right_key && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(KEY.id().as_bytes());
            }
            prop_assert!(opened(&bytes).is_err());
        }
    }
}
