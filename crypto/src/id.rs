//! Identifiers: fixed-size byte strings, each a type of its own so that none is passed where another is meant.

use thiserror::Error;

/// Bytes or text that are not an id of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected {kind}: {len} bytes, or twice as many lower-case hex digits")]
pub struct BadId {
    /// Name of the id's type.
    pub kind: &'static str,
    /// How many bytes it has.
    pub len: usize,
}

/// Defines an id: a named array of bytes with hex text, ordering and a strict encoding.
///
/// `Display` is the full hex and parses back; `Debug` shows four bytes, enough to tell ids apart in a log.
#[macro_export]
macro_rules! define_id {
    ($(#[$attr:meta])* $vis:vis struct $Name:ident, $LEN:expr $(;)?) => {
        $(#[$attr])*
        #[derive(
            ::core::clone::Clone, ::core::marker::Copy, ::core::cmp::PartialEq, ::core::cmp::Eq,
            ::core::cmp::PartialOrd, ::core::cmp::Ord, ::core::hash::Hash,
        )]
        $vis struct $Name([u8; $LEN]);

        #[allow(dead_code, reason = "every id offers the same methods, used or not")]
        impl $Name {
            /// How many bytes it has.
            $vis const LEN: usize = $LEN;
            /// All zeros: stands for "none" where a format reserves it.
            $vis const ZERO: Self = Self([0; $LEN]);

            /// Takes the bytes as they are.
            $vis const fn from_bytes(bytes: [u8; $LEN]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            $vis const fn as_bytes(&self) -> &[u8; $LEN] {
                &self.0
            }

            /// Returns the first eight hex digits, for logs and messages.
            $vis fn short(&self) -> ::std::string::String {
                let mut text = ::std::string::ToString::to_string(self);
                text.truncate(8);
                text
            }

            const BAD: $crate::BadId = $crate::BadId { kind: ::core::stringify!($Name), len: $LEN };
        }

        impl ::core::fmt::Display for $Name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                $crate::define_id_support::display(&self.0, f)
            }
        }

        impl ::core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::write!(f, ::core::concat!(::core::stringify!($Name), "({}..)"), self.short())
            }
        }

        impl ::core::convert::AsRef<[u8]> for $Name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl ::core::convert::TryFrom<&[u8]> for $Name {
            type Error = $crate::BadId;

            fn try_from(bytes: &[u8]) -> ::core::result::Result<Self, $crate::BadId> {
                ::core::convert::TryFrom::try_from(bytes).map(Self).map_err(|_| Self::BAD)
            }
        }

        impl ::core::str::FromStr for $Name {
            type Err = $crate::BadId;

            fn from_str(text: &str) -> ::core::result::Result<Self, $crate::BadId> {
                $crate::define_id_support::parse_hex(text).map(Self).ok_or(Self::BAD)
            }
        }

        impl $crate::define_id_support::serde::Serialize for $Name {
            fn serialize<S: $crate::define_id_support::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::core::result::Result<S::Ok, S::Error> {
                $crate::define_id_support::serialize(&self.0, serializer)
            }
        }

        impl<'de> $crate::define_id_support::serde::Deserialize<'de> for $Name {
            fn deserialize<D: $crate::define_id_support::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                $crate::define_id_support::deserialize(deserializer).map(Self)
            }
        }
    };
}

define_id! {
    /// A device: its Ed25519 public key itself, which is also its TLS identity.
    pub struct DeviceId, 32
}

define_id! {
    /// A user: the hash of the user's public signing key.
    pub struct UserId, 32
}

define_id! {
    /// A volume: the hash of its genesis commit.
    pub struct VolumeId, 32
}

define_id! {
    /// A BLAKE3 hash.
    pub struct Hash, 32
}

define_id! {
    /// Tells which key a sealed block needs, without telling anything else about the key.
    pub struct KeyId, 8
}

define_id! {
    /// An epoch of a realm: a commitment to the epoch's key, checked whenever the key is unwrapped.
    pub struct EpochId, 32
}

#[cfg(test)]
mod tests {
    use super::*;

    define_id! {
        struct Local, 5
    }

    #[test]
    fn text_is_lower_hex_and_debug_is_short() {
        let id = Local::from_bytes([0x4f, 0x2a, 0x91, 0xc0, 0x0d]);
        assert_eq!(id.to_string(), "4f2a91c00d");
        assert_eq!(id.short(), "4f2a91c0");
        assert_eq!(format!("{id:?}"), "Local(4f2a91c0..)");
    }

    #[test]
    fn text_parses_back() {
        let id = Local::from_bytes([1, 2, 3, 4, 0xab]);
        assert_eq!("01020304ab".parse(), Ok(id));
    }

    #[test]
    fn other_text_is_refused() {
        let bad = BadId { kind: "Local", len: 5 };
        for text in ["", "01020304", "01020304AB", "01020304abcd", "01020304xy", "é1020304a"] {
            assert_eq!(text.parse::<Local>(), Err(bad), "{text}");
        }
    }

    #[test]
    fn slices_of_another_length_are_refused() {
        assert_eq!(Local::try_from(&[1, 2, 3, 4, 5][..]), Ok(Local::from_bytes([1, 2, 3, 4, 5])));
        assert!(Local::try_from(&[1, 2, 3, 4][..]).is_err());
        assert!(Local::try_from(&[0; 6][..]).is_err());
    }
}
