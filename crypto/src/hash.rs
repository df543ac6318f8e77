//! Hashes: BLAKE3 in its key-derivation mode, with a [`Label`] as the context.

use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::{Hash, Label, SymmetricKey};

impl Hash {
    /// Hashes a list of parts. Each is preceded by its length, so no two lists of parts give the same input.
    pub fn of(label: Label, parts: &[&[u8]]) -> Hash {
        let mut hasher = Hasher::new(label);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finish()
    }

    /// Hashes one string of bytes as it is. A label serves either this or [`Hash::of`], never both.
    pub fn of_bytes(label: Label, bytes: &[u8]) -> Hash {
        let mut hasher = Hasher::new(label);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Hashes bytes that arrive in pieces; the result is that of [`Hash::of_bytes`] over all of them.
#[derive(Clone)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Starts a hash under `label`.
    pub fn new(label: Label) -> Self {
        // The hash of a label is made once: most of what is hashed is hardly longer.
        static CONTEXTS: [OnceLock<ContextKey>; Label::ALL.len()] = [const { OnceLock::new() }; Label::ALL.len()];
        let context = CONTEXTS[label as usize].get_or_init(|| hash_derive_key_context(label.as_str()));
        Self(blake3::Hasher::new_from_context_key(context))
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of everything taken in.
    pub fn finish(&self) -> Hash {
        Hash::from_bytes(*self.0.finalize().as_bytes())
    }
}

/// Returns a tag that only a holder of `key` can compute or compare: equal bytes have equal tags.
pub fn keyed_tag(key: &SymmetricKey, label: Label, bytes: &[u8]) -> [u8; 16] {
    TagKey::new(key, label).tag(bytes)
}

/// What [`keyed_tag`] derives from its key, for whoever makes many tags.
#[derive(Clone, Debug)]
pub struct TagKey(SymmetricKey);

impl TagKey {
    /// Derives it.
    pub fn new(key: &SymmetricKey, label: Label) -> Self {
        Self(key.derive(label, b""))
    }

    /// As [`keyed_tag`].
    pub fn tag(&self, bytes: &[u8]) -> [u8; 16] {
        let mut tag = [0; 16];
        tag.copy_from_slice(&blake3::keyed_hash(self.0.expose(), bytes).as_bytes()[..16]);
        tag
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn hashes_are_frozen() {
        assert_eq!(
            Hash::of(Label::NodeIdHash, &[b"ab", b"", b"c"]).to_string(),
            "315063a86550d3ab79d39da9ed2c020eaade9ae8c4ffa5c15f656f7d9051c331"
        );
        assert_eq!(
            Hash::of_bytes(Label::BlockHash, b"abc").to_string(),
            "00072de075e922b55e7f30d15886d378de74e87c79eb36964bbb2006842a3f2c"
        );
        let key = SymmetricKey::from_bytes([7; 32]);
        assert_eq!(HEXLOWER.encode(&keyed_tag(&key, Label::LinkTag, b"name")), "fd86719b37bc4467782972d107cf5fca");
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let whole = Hash::of(Label::NodeIdHash, &[b"abc"]);
        assert_ne!(whole, Hash::of(Label::NodeIdHash, &[b"ab", b"c"]));
        assert_ne!(whole, Hash::of(Label::NodeIdHash, &[b"abc", b""]));
        assert_ne!(Hash::of(Label::NodeIdHash, &[b"ab", b"c"]), Hash::of(Label::NodeIdHash, &[b"a", b"bc"]));
    }

    #[test]
    fn labels_and_keys_separate() {
        assert_ne!(Hash::of_bytes(Label::BlockHash, b"x"), Hash::of_bytes(Label::ListHash, b"x"));
        let (a, b) = (SymmetricKey::from_bytes([1; 32]), SymmetricKey::from_bytes([2; 32]));
        assert_ne!(keyed_tag(&a, Label::LinkTag, b"x"), keyed_tag(&b, Label::LinkTag, b"x"));
        assert_ne!(keyed_tag(&a, Label::LinkTag, b"x"), keyed_tag(&a, Label::StoreName, b"x"));
        assert_eq!(keyed_tag(&a, Label::LinkTag, b"x"), keyed_tag(&a, Label::LinkTag, b"x"));
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = Hasher::new(Label::BlockHash);
        hasher.update(b"a");
        hasher.update(b"");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Hash::of_bytes(Label::BlockHash, b"abc"));
    }
}
