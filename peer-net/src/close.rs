//! The codes with which a connection is closed.

use quinn::VarInt;

/// This device ends, or needs the connection no more.
pub const GOODBYE: VarInt = VarInt::from_u32(0);
/// The volume's key was not proven.
pub const NOT_A_MEMBER: VarInt = VarInt::from_u32(2);
/// There is a better connection between the two already.
pub const DUPLICATE: VarInt = VarInt::from_u32(3);
/// The other end sent what an honest one never sends.
pub const MISBEHAVED: VarInt = VarInt::from_u32(4);
/// A join was refused; the reason was told.
pub const REFUSED: VarInt = VarInt::from_u32(5);
/// The other end took too long.
pub const TOO_SLOW: VarInt = VarInt::from_u32(6);
/// Something failed on this side.
pub const FAILED: VarInt = VarInt::from_u32(7);
