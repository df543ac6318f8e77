//! Plain bytes sealed and stored, many blocks in one go.

use crypto::{BLOCK_SIZE, UNIT_SIZE, padded_len, seal_block, seal_patch};

use crate::{
    content::{BlockHash, Blocks, KeyRing},
    error::{Error, Result},
};

/// Blocks are stored when so many are sealed …
const GROUP: usize = 256;
/// … or so many bytes of them.
const GROUP_BYTES: usize = 1 << 20;

/// What is to be sealed as one block.
pub(in crate::content) enum Plain<'a> {
    /// All bytes of it.
    Bytes(&'a [u8]),
    /// All bytes of it, in units, of which the last may be cut; zeros where there is none.
    Units {
        /// In order.
        units: &'a [Option<Box<[u8; UNIT_SIZE]>>],
        /// How many bytes.
        len: usize,
    },
    /// Units that replace some of a block below.
    Patch {
        /// The full plain block that has the others.
        base: BlockHash,
        /// Which they are.
        mask: u16,
        /// In order; zeros where there is none.
        units: &'a [Option<Box<[u8; UNIT_SIZE]>>],
    },
}

static ZEROS: [u8; UNIT_SIZE] = [0; UNIT_SIZE];

impl Blocks {
    /// Seals up to a block of plain bytes under the ring's current key and stores it.
    pub fn seal_put(&self, keys: &KeyRing, plain: &[u8]) -> Result<BlockHash> {
        let hashes = self.seal_put_many(keys, [Plain::Bytes(plain)])?;
        hashes.first().copied().ok_or(Error::Invalid)
    }

    /// Seals and stores several blocks; returns their names in order.
    pub(in crate::content) fn seal_put_many<'a>(
        &self,
        keys: &KeyRing,
        plains: impl IntoIterator<Item = Plain<'a>>,
    ) -> Result<Vec<BlockHash>> {
        let mut hashes = Vec::new();
        let mut plains = plains.into_iter().peekable();
        if plains.peek().is_none() {
            return Ok(hashes);
        }
        let (mut sealed, mut scratch) = (self.buffer(), Vec::new());
        while plains.peek().is_some() {
            sealed.clear();
            let first = hashes.len();
            let mut ends = Vec::new();
            while ends.len() < GROUP
                && sealed.len() < GROUP_BYTES
                && let Some(plain) = plains.next()
            {
                let start = sealed.len();
                hashes.push(self.seal(keys, &plain, &mut scratch, &mut sealed));
                ends.push(start..sealed.len());
            }
            let group: Vec<_> =
                hashes[first..].iter().zip(&ends).map(|(hash, range)| (*hash, &sealed[range.clone()])).collect();
            self.put_all(&group, false)?;
        }
        self.give_back(sealed);
        Ok(hashes)
    }

    /// Seals one block and names it. A short one (the last of a file) is padded, so that its exact length doesn't show.
    fn seal(&self, keys: &KeyRing, plain: &Plain<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> BlockHash {
        let key = keys.current().block_key();
        let entropy = &*self.0.entropy;
        let start = out.len();
        let len = match plain {
            Plain::Bytes(bytes) if padded_len(bytes.len()).min(BLOCK_SIZE) == bytes.len() => {
                seal_block(key, bytes, entropy, out);
                return BlockHash::of_block(&out[start..]);
            }
            Plain::Patch { base, mask, units } => {
                let replaced = units.iter().enumerate().filter(|(unit, _)| mask & 1 << unit != 0);
                let replaced = replaced.map(|(_, bytes)| bytes.as_deref().unwrap_or(&ZEROS));
                let header = seal_patch(key, base.as_bytes(), *mask, replaced, entropy, out);
                let hash = BlockHash::of_patch(&out[start..]);
                self.0.patches.lock().put(hash, header);
                return hash;
            }
            Plain::Bytes(bytes) => {
                scratch.clear();
                scratch.extend_from_slice(bytes);
                bytes.len()
            }
            Plain::Units { units, len } => {
                scratch.clear();
                units.iter().for_each(|unit| scratch.extend_from_slice(unit.as_deref().unwrap_or(&ZEROS)));
                *len
            }
        };
        scratch.truncate(len);
        scratch.resize(padded_len(len).min(BLOCK_SIZE), 0);
        seal_block(key, scratch, entropy, out);
        BlockHash::of_block(&out[start..])
    }
}
