//! The bytes of packs, of their index rows, and of the synced point.

use std::path::{Path, PathBuf};

use crypto::{BLOCK_HEADER_SIZE, BLOCK_SIZE};

use crate::{
    content::{BlockHash, BlockHead, BlockKind},
    error::{Error, Result},
};

const PACK_MAGIC: &[u8; 8] = b"P2PFSPAK";
const RECORD_MAGIC: &[u8; 4] = b"BLK\x01";
const VERSION: u32 = 1;

/// Bytes before a pack's first record.
pub(super) const PACK_HEADER: u64 = 16;
/// Bytes of a record before the block's own.
pub(super) const RECORD_HEADER: u64 = 40;
/// The most bytes of a block: a full one, sealed.
pub(super) const RECORD_MAX: usize = BLOCK_HEADER_SIZE + BLOCK_SIZE + 16 * (BLOCK_SIZE / crypto::PAGE_SIZE);

/// The path of a pack.
pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08x}.pack"))
}

/// The number of the pack with this file name.
pub(super) fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".pack").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

/// The start of a pack.
pub(super) fn pack_header(number: u32) -> [u8; PACK_HEADER as usize] {
    let mut header = [0; PACK_HEADER as usize];
    header[..8].copy_from_slice(PACK_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&number.to_le_bytes());
    header
}

/// Whether these bytes start pack `number`; false when they were never wholly written.
///
/// # Errors
/// The pack was made by a newer version.
pub(super) fn check_pack_header(header: &[u8; PACK_HEADER as usize], number: u32) -> Result<bool> {
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if header.starts_with(PACK_MAGIC) && version > VERSION {
        return Err(Error::Refused(format!(
            "pack {number:08x} has format version {version}, known are up to {VERSION}"
        )));
    }
    Ok(*header == pack_header(number))
}

/// Whether the version in a pack's header may be this one with a bit flipped.
pub(super) fn is_near(header: &[u8; PACK_HEADER as usize]) -> bool {
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    (version ^ VERSION).is_power_of_two()
}

/// The start of a record.
pub(super) fn record_header(hash: &BlockHash, bytes: &[u8]) -> [u8; RECORD_HEADER as usize] {
    let mut header = [0; RECORD_HEADER as usize];
    header[..4].copy_from_slice(RECORD_MAGIC);
    header[4..8].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    header[8..].copy_from_slice(hash.as_bytes());
    header
}

/// Name and length of a record, if these bytes start one.
pub(super) fn parse_record_header(header: &[u8; RECORD_HEADER as usize]) -> Option<(BlockHash, usize)> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (len, hash) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let sound = magic == RECORD_MAGIC && (1..=RECORD_MAX).contains(&len);
    sound.then(|| BlockHash::try_from(hash).ok().map(|hash| (hash, len))).flatten()
}

/// Where in these bytes a record may begin.
pub(super) fn record_starts(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let starts = bytes.windows(RECORD_MAGIC.len()).enumerate();
    starts.filter(|(_, four)| four == RECORD_MAGIC).map(|(at, _)| at)
}

/// Whether bytes bear their name, as a block, a patch or a list node. Blocks of other lengths than sealing gives are none of
/// this module's concern, but what a row would take for a patch must be one.
pub(super) fn is_named(hash: &BlockHash, bytes: &[u8]) -> bool {
    BlockKind::of(hash, bytes).is_some() || !crypto::is_patch(bytes) && BlockHash::of_block(bytes) == *hash
}

/// An index row: where a block's bytes lie, and the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) head: BlockHead,
}

impl Place {
    const LEN: usize = 4 + 8 + 4 + BLOCK_HEADER_SIZE;

    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.head.len as u64)
    }

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut row = [0; Self::LEN];
        row[..4].copy_from_slice(&self.pack.to_le_bytes());
        row[4..12].copy_from_slice(&self.offset.to_le_bytes());
        row[12..16].copy_from_slice(&(self.head.len as u32).to_le_bytes());
        row[16..].copy_from_slice(&self.head.first);
        row
    }

    pub(super) fn decode(row: &[u8]) -> Result<Self> {
        let bad = || Error::damaged("an index row of the packs");
        let (pack, rest) = row.split_first_chunk().ok_or_else(bad)?;
        let (offset, rest) = rest.split_first_chunk().ok_or_else(bad)?;
        let (len, first) = rest.split_first_chunk().ok_or_else(bad)?;
        let len = u32::from_le_bytes(*len) as usize;
        if !(1..=RECORD_MAX).contains(&len) {
            return Err(bad());
        }
        Ok(Self {
            pack: u32::from_le_bytes(*pack),
            offset: u64::from_le_bytes(*offset),
            head: BlockHead { len, first: first.try_into().map_err(|_| bad())? },
        })
    }
}

/// Up to where the packs are known to be on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncPoint {
    /// The greatest number ever given to a pack.
    pub(super) newest: u32,
    /// Packs before this one are on the disk …
    pub(super) pack: u32,
    /// … and this one up to here.
    pub(super) end: u64,
    /// Nothing was written since: the newest pack ends at `end`.
    pub(super) closed: bool,
}

impl SyncPoint {
    pub(super) const KEY: &'static [u8] = b"packs";
    const LEN: usize = 17;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut row = [0; Self::LEN];
        row[..4].copy_from_slice(&self.newest.to_le_bytes());
        row[4..8].copy_from_slice(&self.pack.to_le_bytes());
        row[8..16].copy_from_slice(&self.end.to_le_bytes());
        row[16] = u8::from(self.closed);
        row
    }

    pub(super) fn decode(row: &[u8]) -> Result<Self> {
        let bad = || Error::damaged("the synced point of the packs");
        let (newest, rest) = row.split_first_chunk().ok_or_else(bad)?;
        let (pack, rest) = rest.split_first_chunk().ok_or_else(bad)?;
        let (end, closed) = rest.split_first_chunk().ok_or_else(bad)?;
        Ok(Self {
            newest: u32::from_le_bytes(*newest),
            pack: u32::from_le_bytes(*pack),
            end: u64::from_le_bytes(*end),
            closed: match closed {
                [0] => false,
                [1] => true,
                _ => return Err(bad()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_encoding_and_nothing_else_decodes() {
        let place = Place { pack: 7, offset: 1 << 40, head: BlockHead::of(&[9; 100]) };
        assert_eq!(Place::decode(&place.encode()).unwrap(), place);
        assert!(Place::decode(&place.encode()[..39]).is_err());
        assert!(Place::decode(&[0; 40]).is_err());
        let point = SyncPoint { newest: 3, pack: 2, end: 99, closed: true };
        assert_eq!(SyncPoint::decode(&point.encode()).unwrap(), point);
        assert!(SyncPoint::decode(&[2; 17]).is_err());
    }

    #[test]
    fn the_longest_record_is_a_full_block() {
        assert_eq!(RECORD_MAX, crypto::stored_len(BLOCK_SIZE));
    }
}
