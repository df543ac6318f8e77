//! Reading the records of the local store: MessagePack as [`crate::commit::encode`] writes it, out of bytes that are at hand.
//!
//! Rows are read wherever nothing is in memory, and most of what that costs would be the reader's generality: this one
//! knows what it is asked for, and takes nothing else.
//!
//! Invariants: nothing is allocated that the bytes are too few for; bytes after the value are refused.

use std::fmt::Display;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Not a record of the wanted kind. Which byte is wrong helps nobody.
#[derive(Debug, thiserror::Error)]
#[error("not a record of its kind")]
pub(crate) struct Unreadable;

impl de::Error for Unreadable {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

type Result<T> = std::result::Result<T, Unreadable>;

/// Reads a record.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut reader = Reader { left: bytes };
    let value = T::deserialize(&mut reader)?;
    if reader.left.is_empty() { Ok(value) } else { Err(Unreadable) }
}

struct Reader<'de> {
    left: &'de [u8],
}

/// A whole number, as it is written.
enum Number {
    Unsigned(u64),
    Negative(i64),
}

const NIL: u8 = 0xc0;

impl<'de> Reader<'de> {
    fn byte(&mut self) -> Result<u8> {
        let (&byte, left) = self.left.split_first().ok_or(Unreadable)?;
        self.left = left;
        Ok(byte)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, left) = self.left.split_first_chunk().ok_or(Unreadable)?;
        self.left = left;
        Ok(*bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'de [u8]> {
        let (bytes, left) = self.left.split_at_checked(len).ok_or(Unreadable)?;
        self.left = left;
        Ok(bytes)
    }

    fn u8_len(&mut self) -> Result<usize> {
        self.byte().map(usize::from)
    }

    fn u16_len(&mut self) -> Result<usize> {
        self.fixed().map(|bytes| u16::from_be_bytes(bytes).into())
    }

    fn u32_len(&mut self) -> Result<usize> {
        usize::try_from(u32::from_be_bytes(self.fixed()?)).map_err(|_| Unreadable)
    }

    #[inline]
    fn number(&mut self) -> Result<Number> {
        Ok(match self.byte()? {
            small @ 0..=0x7f => Number::Unsigned(small.into()),
            0xcc => Number::Unsigned(self.byte()?.into()),
            0xcd => Number::Unsigned(u16::from_be_bytes(self.fixed()?).into()),
            0xce => Number::Unsigned(u32::from_be_bytes(self.fixed()?).into()),
            0xcf => Number::Unsigned(u64::from_be_bytes(self.fixed()?)),
            small @ 0xe0..=0xff => Number::Negative(i8::from_be_bytes([small]).into()),
            0xd0 => Number::Negative(i8::from_be_bytes(self.fixed()?).into()),
            0xd1 => Number::Negative(i16::from_be_bytes(self.fixed()?).into()),
            0xd2 => Number::Negative(i32::from_be_bytes(self.fixed()?).into()),
            0xd3 => Number::Negative(i64::from_be_bytes(self.fixed()?)),
            _ => return Err(Unreadable),
        })
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'de [u8]> {
        let len = match self.byte()? {
            0xc4 => self.u8_len()?,
            0xc5 => self.u16_len()?,
            0xc6 => self.u32_len()?,
            _ => return Err(Unreadable),
        };
        self.take(len)
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str> {
        let len = match self.byte()? {
            short @ 0xa0..=0xbf => usize::from(short & 0x1f),
            0xd9 => self.u8_len()?,
            0xda => self.u16_len()?,
            0xdb => self.u32_len()?,
            _ => return Err(Unreadable),
        };
        std::str::from_utf8(self.take(len)?).map_err(|_| Unreadable)
    }

    /// How many things a list has: each takes a byte at least.
    #[inline]
    fn list(&mut self) -> Result<usize> {
        let len = match self.byte()? {
            short @ 0x90..=0x9f => usize::from(short & 0xf),
            0xdc => self.u16_len()?,
            0xdd => self.u32_len()?,
            _ => return Err(Unreadable),
        };
        if len <= self.left.len() { Ok(len) } else { Err(Unreadable) }
    }

    #[inline]
    fn map(&mut self) -> Result<usize> {
        let len = match self.byte()? {
            short @ 0x80..=0x8f => usize::from(short & 0xf),
            0xde => self.u16_len()?,
            0xdf => self.u32_len()?,
            _ => return Err(Unreadable),
        };
        if len <= self.left.len() / 2 { Ok(len) } else { Err(Unreadable) }
    }

    #[inline]
    fn visit_number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.number()? {
            Number::Unsigned(number) => visitor.visit_u64(number),
            Number::Negative(number) => visitor.visit_i64(number),
        }
    }

    #[inline]
    fn visit_list<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        let mut items = Counted { left: self.list()?, reader: self };
        let value = visitor.visit_seq(&mut items)?;
        if items.left == 0 { Ok(value) } else { Err(Unreadable) }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.visit_number(visitor)
        }
    )*};
}

macro_rules! refused {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
            Err(Unreadable)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Unreadable;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    // No record has any of these.
    refused! {
        deserialize_any deserialize_ignored_any deserialize_f32 deserialize_f64 deserialize_char
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.byte()? {
            0xc2 => visitor.visit_bool(false),
            0xc3 => visitor.visit_bool(true),
            _ => Err(Unreadable),
        }
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.left.split_first() {
            Some((&NIL, left)) => {
                self.left = left;
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.byte()? == NIL { visitor.visit_unit() } else { Err(Unreadable) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.visit_list(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.visit_list(visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.visit_list(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.visit_list(visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.visit_list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let mut pairs = Counted { left: self.map()?, reader: self };
        let value = visitor.visit_map(&mut pairs)?;
        if pairs.left == 0 { Ok(value) } else { Err(Unreadable) }
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let has_fields = matches!(self.left.first(), Some(0x80..=0x8f | 0xde | 0xdf));
        if has_fields && self.map()? != 1 {
            return Err(Unreadable);
        }
        visitor.visit_enum(Variant { reader: self, has_fields })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// What is left of a list or map.
struct Counted<'a, 'de> {
    reader: &'a mut Reader<'de>,
    left: usize,
}

impl<'de> SeqAccess<'de> for &mut Counted<'_, 'de> {
    type Error = Unreadable;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for &mut Counted<'_, 'de> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

struct Variant<'a, 'de> {
    reader: &'a mut Reader<'de>,
    has_fields: bool,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Unreadable;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let name = seed.deserialize(&mut *self.reader)?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Unreadable;

    #[inline]
    fn unit_variant(self) -> Result<()> {
        if self.has_fields { Err(Unreadable) } else { Ok(()) }
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        if self.has_fields { seed.deserialize(self.reader) } else { Err(Unreadable) }
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        if self.has_fields { self.reader.visit_list(visitor) } else { Err(Unreadable) }
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        if self.has_fields { self.reader.visit_list(visitor) } else { Err(Unreadable) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::{Deserialize, Serialize};
    use serde_bytes::ByteBuf;

    use super::*;
    use crate::commit::encode;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newtype(u64);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Choice {
        Bare,
        One(Newtype),
        Named { flag: bool, bytes: ByteBuf },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Record {
        choices: Vec<Choice>,
        maybe: [Option<i64>; 2],
        name: String,
        pair: (u8, u16),
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        end: Vec<u32>,
    }

    fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
        assert_eq!(read::<T>(&encode(&value)).unwrap(), value);
    }

    fn record(end: Vec<u32>) -> Record {
        let named = Choice::Named { flag: true, bytes: ByteBuf::from(vec![9; 300]) };
        Record {
            choices: vec![Choice::Bare, Choice::One(Newtype(70_000)), named],
            maybe: [None, Some(-129)],
            name: "n".repeat(40),
            pair: (200, 60_000),
            end,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        for bits in 0..64 {
            for near in [0, 1, 2] {
                let number = (1_u64 << bits).wrapping_sub(near);
                same(number);
                same(number as i64);
                same((number as i64).wrapping_neg());
                same(number as u8);
            }
        }
        for len in [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            same(vec![7_u16; len]);
            same(ByteBuf::from(vec![7; len]));
            same("x".repeat(len));
        }
        same(record(Vec::new()));
        same(record(vec![1, 2]));
    }

    #[test]
    fn a_record_cut_short_or_with_more_behind_it_is_refused() {
        let whole = encode(&record(vec![1]));
        for len in 0..whole.len() {
            assert!(read::<Record>(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(read::<Record>(&[&whole[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_list_of_more_than_there_is_is_refused_before_room_is_made_for_it() {
        for bytes in [&[0xdd, 0xff, 0xff, 0xff, 0xff, 1][..], &[0x92, 1], &[0xdc, 0xff, 0xff]] {
            assert!(read::<Vec<u64>>(bytes).is_err());
        }
        assert!(read::<ByteBuf>(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(read::<(u8, u8)>(&[0x93, 1, 2, 3]).is_err(), "one too many");
    }

    #[test]
    fn a_number_out_of_range_is_refused() {
        assert!(read::<u8>(&[0xcd, 1, 0]).is_err());
        assert!(read::<u64>(&[0xff]).is_err());
        assert!(read::<i64>(&encode(&u64::MAX)).is_err());
    }

    #[test]
    fn a_variant_has_the_fields_it_should() {
        let name = |name: &str| encode(&name);
        assert!(read::<Choice>(&name("One")).is_err());
        assert!(read::<Choice>(&name("Other")).is_err());
        assert!(read::<Choice>(&[&[0x81][..], &name("Bare"), &[NIL]].concat()).is_err());
        assert!(read::<Choice>(&[&[0x82][..], &name("One"), &[1], &name("One"), &[1]].concat()).is_err());
    }
}
