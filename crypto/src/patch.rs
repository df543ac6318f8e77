//! Patches: some of a full block's bytes sealed anew, laid over the block that has the others.
//!
//! A stored patch is `magic 8 ‖ salt 16 ‖ key id 8 ‖ base 32 ‖ units u16 LE`, then for each bit of `units`, in rising
//! order, [`UNIT_SIZE`] plain bytes sealed with XChaCha20-Poly1305 under the nonce `salt ‖ unit number u64 LE`, the header
//! as additional data: `ciphertext ‖ tag 16`. The magic stands where a block has its key id. The salt is fresh at every
//! sealing, so no (key, nonce) repeats.
//!
//! A unit proves that a key holder sealed it at this place for just this header, so for this base and beside these
//! other units. Whoever believes what a header says of its base without opening a unit relies on the patch's name, the
//! hash of all stored bytes.

use std::ops::Range;

use crate::xchacha::{SALT_SIZE, Subkey, TAG_SIZE};
use crate::{BLOCK_SIZE, Entropy, KeyId, OpenError, SymmetricKey, random_array};

/// Plain bytes of a unit, the least that a patch replaces.
pub const UNIT_SIZE: usize = 4096;
/// Units of a block.
pub const UNITS: usize = BLOCK_SIZE / UNIT_SIZE;
/// Stored bytes before the first unit.
pub const PATCH_HEADER_SIZE: usize = MAGIC.len() + SALT_SIZE + KeyId::LEN + BASE + 2;

const MAGIC: &[u8; 8] = b"P2PFSPCH";
const BASE: usize = 32;
const SEALED_UNIT_SIZE: usize = UNIT_SIZE + TAG_SIZE;

const _: () = assert!(UNITS == u16::BITS as usize && PATCH_HEADER_SIZE == 66);

/// Whether stored bytes (or the first of them) are a patch's and no block's. That a key has the id that says so is as
/// likely as that two keys share one.
pub fn is_patch(stored: &[u8]) -> bool {
    stored.starts_with(MAGIC)
}

/// The clear start of a stored patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchHeader {
    salt: [u8; SALT_SIZE],
    key_id: KeyId,
    base: [u8; BASE],
    units: u16,
}

impl PatchHeader {
    /// Reads the header from the start of a stored patch.
    pub fn parse(stored: &[u8]) -> Result<PatchHeader, OpenError> {
        let (magic, rest) = stored.split_first_chunk::<8>().ok_or(OpenError::Malformed)?;
        let (salt, rest) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
        let (key_id, rest) = rest.split_first_chunk::<{ KeyId::LEN }>().ok_or(OpenError::Malformed)?;
        let (base, rest) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
        let units = u16::from_le_bytes(*rest.first_chunk().ok_or(OpenError::Malformed)?);
        // With all of them there is nothing that a base could add.
        if magic != MAGIC || units == 0 || units == u16::MAX {
            return Err(OpenError::Malformed);
        }
        Ok(PatchHeader { salt: *salt, key_id: KeyId::from_bytes(*key_id), base: *base, units })
    }

    /// Reads the header of a whole stored patch, or refuses bytes of another length than it demands.
    pub fn parse_whole(stored: &[u8]) -> Result<PatchHeader, OpenError> {
        let header = Self::parse(stored)?;
        if stored.len() == header.stored_len() { Ok(header) } else { Err(OpenError::Malformed) }
    }

    /// Returns the id of the key that opens the units.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Returns the name of the block below, as its bytes.
    pub fn base(&self) -> &[u8; 32] {
        &self.base
    }

    /// Returns which units are replaced, one bit each.
    pub fn units(&self) -> u16 {
        self.units
    }

    /// Whether this unit is replaced.
    pub fn has(&self, unit: usize) -> bool {
        self.units & 1 << unit != 0
    }

    /// Returns the length of the whole patch.
    pub fn stored_len(&self) -> usize {
        PATCH_HEADER_SIZE + self.units.count_ones() as usize * SEALED_UNIT_SIZE
    }

    /// Returns where in the stored patch the replaced ones among `units` lie.
    pub fn stored_range(&self, units: Range<usize>) -> Range<usize> {
        let at = |unit: usize| {
            let before = u32::from(self.units) & ((1 << unit) - 1);
            PATCH_HEADER_SIZE + before.count_ones() as usize * SEALED_UNIT_SIZE
        };
        at(units.start)..at(units.end)
    }

    /// Returns the bytes that [`Self::parse`] reads.
    pub fn encode(&self) -> [u8; PATCH_HEADER_SIZE] {
        let mut header = [0; PATCH_HEADER_SIZE];
        let mut at = 0;
        for field in [&MAGIC[..], &self.salt, self.key_id.as_bytes(), &self.base, &self.units.to_le_bytes()] {
            header[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        header
    }
}

/// Appends the stored form of a patch to `out`: of each set bit of `units`, in rising order, the next of `plain`.
pub fn seal_patch<'a>(
    key: &SymmetricKey,
    base: &[u8; 32],
    units: u16,
    plain: impl IntoIterator<Item = &'a [u8; UNIT_SIZE]>,
    entropy: &dyn Entropy,
    out: &mut Vec<u8>,
) -> PatchHeader {
    assert!(units != 0 && units != u16::MAX, "a patch replaces some of a block's units");
    let header = PatchHeader { salt: random_array(entropy), key_id: key.id(), base: *base, units };
    let aad = header.encode();
    let start = out.len();
    out.reserve(header.stored_len());
    out.extend_from_slice(&aad);
    let subkey = Subkey::new(key, &header.salt);
    for (unit, plain) in (0..UNITS).filter(|unit| header.has(*unit)).zip(plain) {
        subkey.seal((unit as u64).to_le_bytes(), &aad, plain, out);
    }
    assert_eq!(out.len() - start, header.stored_len(), "a patch has the bytes of all its units");
    header
}

/// Opens the replaced ones among `units` from their sealed bytes, which lie at [`PatchHeader::stored_range`], and appends
/// their plain bytes in rising order to `out`, which stays as it was if that fails.
pub fn open_units(
    key: &SymmetricKey,
    header: &PatchHeader,
    units: Range<usize>,
    sealed: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpenError> {
    if units.end > UNITS || units.start > units.end || sealed.len() != header.stored_range(units.clone()).len() {
        return Err(OpenError::Malformed);
    }
    if key.id() != header.key_id {
        return Err(OpenError::OtherKey);
    }
    let start = out.len();
    let aad = header.encode();
    let subkey = Subkey::new(key, &header.salt);
    for (unit, sealed) in units.filter(|unit| header.has(*unit)).zip(sealed.chunks(SEALED_UNIT_SIZE)) {
        if !subkey.open((unit as u64).to_le_bytes(), &aad, sealed, out) {
            out.truncate(start);
            return Err(OpenError::Forged);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use chacha20poly1305::{XChaCha20Poly1305, XNonce};
    use proptest::prelude::*;

    use super::*;
    use crate::{Hash, Label, SeededEntropy};

    const KEY: SymmetricKey = SymmetricKey::from_bytes([7; 32]);
    const BASE: [u8; 32] = [5; 32];

    fn plain(unit: usize) -> [u8; UNIT_SIZE] {
        std::array::from_fn(|i| ((i + unit * 17) % 251) as u8)
    }

    fn sealed(units: u16) -> Vec<u8> {
        let mut stored = Vec::new();
        let plains: Vec<_> = (0..UNITS).filter(|unit| units & 1 << unit != 0).map(plain).collect();
        seal_patch(&KEY, &BASE, units, &plains, &SeededEntropy::new(1), &mut stored);
        stored
    }

    fn opened(stored: &[u8], units: Range<usize>) -> Result<Vec<u8>, OpenError> {
        let header = PatchHeader::parse_whole(stored)?;
        let mut out = Vec::new();
        open_units(&KEY, &header, units.clone(), &stored[header.stored_range(units)], &mut out).map(|()| out)
    }

    #[test]
    fn the_format_is_frozen() {
        assert_eq!(
            Hash::of_bytes(Label::PatchHash, &sealed(0b1000_0000_0000_0110)).to_string(),
            "1a972767675d34bb64e0d1798cf7d158ffad5fa2d1737bbddbb42116dcf41b96"
        );
    }

    /// The layout, told with the crate that defines the cipher.
    #[test]
    fn units_are_xchacha20_poly1305_under_their_number_bound_to_the_header() {
        let stored = sealed(0b110);
        let (header, units) = stored.split_at(PATCH_HEADER_SIZE);
        assert_eq!(header[..8], *b"P2PFSPCH");
        assert_eq!(header[24..32], *KEY.id().as_bytes());
        assert_eq!(header[32..64], BASE);
        assert_eq!(header[64..], [0b110, 0]);
        let mut expected = Vec::new();
        for unit in [1usize, 2] {
            let nonce: [u8; 24] = [&header[8..24], &(unit as u64).to_le_bytes()].concat().try_into().unwrap();
            let cipher = XChaCha20Poly1305::new(KEY.expose().into());
            let payload = Payload { msg: &plain(unit), aad: header };
            expected.extend(cipher.encrypt(&XNonce::from(nonce), payload).unwrap());
        }
        assert!(units == expected);
    }

    #[test]
    fn no_bit_of_a_patch_can_change() {
        let stored = sealed(0b1001);
        for at in 0..PATCH_HEADER_SIZE {
            for bit in 0..8 {
                let mut forged = stored.clone();
                forged[at] ^= 1 << bit;
                assert!(opened(&forged, 0..UNITS).is_err(), "byte {at}, bit {bit}");
            }
        }
        for at in [PATCH_HEADER_SIZE, PATCH_HEADER_SIZE + UNIT_SIZE, stored.len() - 1] {
            let mut forged = stored.clone();
            forged[at] ^= 1;
            assert_eq!(opened(&forged, 0..UNITS), Err(OpenError::Forged), "byte {at}");
        }
    }

    /// A header that says other units, of the same number: each would be taken for another one.
    #[test]
    fn a_unit_opens_only_beside_the_units_it_was_sealed_with() {
        let mut stored = sealed(0b0101);
        stored[64] = 0b1001;
        let header = PatchHeader::parse_whole(&stored).unwrap();
        let first = header.stored_range(0..1);
        assert_eq!(open_units(&KEY, &header, 0..1, &stored[first], &mut Vec::new()), Err(OpenError::Forged));
    }

    #[test]
    fn patches_in_another_form_are_refused() {
        let stored = sealed(0b11);
        let with = |units: u16| {
            let mut stored = stored.clone();
            stored[64..66].copy_from_slice(&units.to_le_bytes());
            stored
        };
        for bytes in [
            with(0),
            with(0b1),
            with(0b111),
            with(u16::MAX),
            stored[..stored.len() - 1].to_vec(),
            [&stored[..], &[0]].concat(),
            stored[..PATCH_HEADER_SIZE].to_vec(),
            stored[..PATCH_HEADER_SIZE - 1].to_vec(),
            Vec::new(),
        ] {
            assert_eq!(PatchHeader::parse_whole(&bytes), Err(OpenError::Malformed));
        }
        let header = PatchHeader::parse(&stored).unwrap();
        let open = |units, sealed: &[u8]| open_units(&KEY, &header, units, sealed, &mut Vec::new());
        assert_eq!(open(0..1, b""), Err(OpenError::Malformed));
        assert_eq!(open(2..UNITS, b""), Ok(()));
        assert_eq!(open(2..UNITS + 1, b""), Err(OpenError::Malformed));
        let other = SymmetricKey::from_bytes([8; 32]);
        let all = &stored[header.stored_range(0..UNITS)];
        assert_eq!(open_units(&other, &header, 0..UNITS, all, &mut Vec::new()), Err(OpenError::OtherKey));
    }

    #[test]
    #[should_panic(expected = "some of a block's units")]
    fn a_patch_of_nothing_is_our_own_mistake() {
        sealed(0);
    }

    proptest! {
        #[test]
        fn any_units_open_by_themselves(units in 1..u16::MAX, from in 0..=UNITS, len in 0..=UNITS) {
            let stored = sealed(units);
            prop_assert!(is_patch(&stored));
            let range = from..(from + len).min(UNITS);
            let expected: Vec<u8> = range.clone().filter(|u| units & 1 << u != 0).flat_map(plain).collect();
            prop_assert!(opened(&stored, range).unwrap() == expected);
        }

        #[test]
        fn arbitrary_bytes_are_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..3 * UNIT_SIZE), magic: bool,
        ) {
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(MAGIC);
            }
            prop_assert!(opened(&bytes, 0..UNITS).is_err());
        }
    }
}
