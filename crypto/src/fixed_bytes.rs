//! How values of a fixed number of bytes read and write: ids, public keys, signatures, tags.
//!
//! Compact formats carry the raw bytes and accept nothing else (no list of numbers, no other length), so that one
//! value has one encoding. Formats for people (JSON) carry lower-case hex.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::ser::Serializer;

/// Writes `bytes` as a byte string, or as hex where people read.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    } else {
        serializer.serialize_bytes(bytes)
    }
}

/// Reads exactly `N` bytes written by [`serialize`].
pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(HexText::<N>)
    } else {
        deserializer.deserialize_bytes(RawBytes::<N>)
    }
}

/// Parses exactly `N` bytes of lower-case hex.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// Writes `bytes` as lower-case hex.
pub fn display(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.pad(&HEXLOWER.encode(bytes))
}

struct RawBytes<const N: usize>;

impl<const N: usize> Visitor<'_> for RawBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

struct HexText<const N: usize>;

impl<const N: usize> Visitor<'_> for HexText<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes in lower-case hex")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<[u8; N], E> {
        parse_hex(text).ok_or_else(|| E::invalid_value(Unexpected::Other("other text"), &self))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Hash, KeyId};

    const ID: KeyId = KeyId::from_bytes([0x4f, 0x2a, 0x91, 0xc0, 0, 1, 2, 0xff]);

    fn refused(messagepack: &[u8]) {
        assert!(rmp_serde::from_slice::<KeyId>(messagepack).is_err(), "{messagepack:?}");
    }

    #[test]
    fn messagepack_carries_raw_bytes() {
        let bytes = rmp_serde::to_vec(&ID).unwrap();
        assert_eq!(bytes, [0xc4, 8, 0x4f, 0x2a, 0x91, 0xc0, 0, 1, 2, 0xff]);
        assert_eq!(rmp_serde::from_slice::<KeyId>(&bytes).unwrap(), ID);
    }

    #[test]
    fn messagepack_of_other_lengths_or_kinds_is_refused() {
        refused(&[0xc4, 7, 1, 2, 3, 4, 5, 6, 7]);
        refused(&[0xc4, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        refused(&[0x98, 1, 2, 3, 4, 5, 6, 7, 8]); // a list of numbers
        refused(&[0xa8, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8']); // a text of 8 bytes
        refused(&[0xc6, 0xff, 0xff, 0xff, 0xff]); // a length that is not there
    }

    #[test]
    fn messagepack_refuses_hex_text() {
        let mut text = vec![0xb0];
        text.extend_from_slice(ID.to_string().as_bytes());
        refused(&text);
    }

    #[test]
    fn json_carries_hex() {
        let json = serde_json::to_string(&ID).unwrap();
        assert_eq!(json, r#""4f2a91c0000102ff""#);
        assert_eq!(serde_json::from_str::<KeyId>(&json).unwrap(), ID);
        assert!(serde_json::from_str::<Hash>(&json).is_err());
    }
}
