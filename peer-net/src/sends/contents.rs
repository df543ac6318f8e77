//! The contents of files, one after the other in the manifest's order.
//!
//! Of each file: `from u64`, where it goes on; then pieces `length u32 ‖ bytes`; then `0 u32 ‖ hash`, over the whole file and
//! not only over what came, or `0xFFFFFFFF`: it changed while it was read, and has to come again. All little endian.

use std::io::{self, BufRead, Read, Write};

use crypto::{Hash, Hasher, Label};

/// The longest piece.
pub const MAX_PIECE: usize = 1 << 20;
const BROKEN_OFF: u32 = u32::MAX;

/// Hashes what a file has.
pub fn hasher() -> Hasher {
    Hasher::new(Label::SentFile)
}

/// Says where a file goes on.
pub fn begin(out: &mut impl Write, from: u64) -> io::Result<()> {
    out.write_all(&from.to_le_bytes())
}

/// The head of a piece of so many bytes, which follow.
pub fn piece(out: &mut impl Write, len: usize) -> io::Result<()> {
    debug_assert!((1..=MAX_PIECE).contains(&len), "a piece has a length that may be");
    let len = u32::try_from(len).map_err(io::Error::other)?;
    out.write_all(&len.to_le_bytes())
}

/// All of it was sent.
pub fn end(out: &mut impl Write, hash: &Hash) -> io::Result<()> {
    out.write_all(&0_u32.to_le_bytes())?;
    out.write_all(hash.as_bytes())
}

/// It changed.
pub fn break_off(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&BROKEN_OFF.to_le_bytes())
}

/// Why a file did not come.
#[derive(Debug)]
pub enum Failed {
    /// The stream broke.
    Cut(io::Error),
    /// No honest device sends that.
    Misbehaved(&'static str),
    /// It can't be kept.
    Kept(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Cut(error)
    }
}

/// How a file ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is what the sender has.
    Whole,
    /// It isn't: another hash.
    Differs,
    /// It changed there meanwhile.
    BrokenOff,
}

/// Where a file goes on.
pub fn start(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Takes in what is said of a file that is there whole, with this hash. Whether it is what the sender has.
pub fn is_whole(from: &mut impl Read, hash: &Hash) -> Result<bool, Failed> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    match u32::from_le_bytes(head) {
        BROKEN_OFF => Ok(false),
        0 => {
            let mut sent = [0; 32];
            from.read_exact(&mut sent)?;
            Ok(Hash::from_bytes(sent) == *hash)
        }
        _ => Err(Failed::Misbehaved("more of a file than was said")),
    }
}

/// Takes in what is left of a file of `size` bytes, of which `at` are there and `hasher` has seen them. Hands `keep` what
/// comes, in order.
pub fn rest(
    from: &mut impl BufRead,
    mut at: u64,
    size: u64,
    mut hasher: Hasher,
    mut keep: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Ended, Failed> {
    loop {
        let mut head = [0; 4];
        from.read_exact(&mut head)?;
        match u32::from_le_bytes(head) {
            BROKEN_OFF => return Ok(Ended::BrokenOff),
            0 => {
                let mut hash = [0; 32];
                from.read_exact(&mut hash)?;
                if at != size {
                    return Err(Failed::Misbehaved("a file shorter than was said"));
                }
                let same = hasher.finish() == Hash::from_bytes(hash);
                return Ok(if same { Ended::Whole } else { Ended::Differs });
            }
            len if len as usize > MAX_PIECE || u64::from(len) > size - at => {
                return Err(Failed::Misbehaved("more of a file than was said"));
            }
            len => {
                let mut left = len as usize;
                while left > 0 {
                    let bytes = from.fill_buf()?;
                    if bytes.is_empty() {
                        return Err(Failed::Cut(io::ErrorKind::UnexpectedEof.into()));
                    }
                    let bytes = &bytes[..bytes.len().min(left)];
                    hasher.update(bytes);
                    keep(bytes).map_err(Failed::Kept)?;
                    let taken = bytes.len();
                    left -= taken;
                    from.consume(taken);
                }
                at += u64::from(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> Hash {
        Hash::of_bytes(Label::SentFile, bytes)
    }

    fn sent(pieces: &[&[u8]], last: Option<Hash>) -> Vec<u8> {
        let mut out = Vec::new();
        for bytes in pieces {
            piece(&mut out, bytes.len()).unwrap();
            out.extend_from_slice(bytes);
        }
        match last {
            Some(hash) => end(&mut out, &hash).unwrap(),
            None => break_off(&mut out).unwrap(),
        }
        out
    }

    fn took(bytes: &[u8], before: &[u8], size: u64) -> (Result<Ended, Failed>, Vec<u8>) {
        let mut kept = before.to_vec();
        let mut hasher = hasher();
        hasher.update(before);
        let ended = rest(&mut &bytes[..], before.len() as u64, size, hasher, |bytes| {
            kept.extend_from_slice(bytes);
            Ok(())
        });
        (ended, kept)
    }

    #[test]
    fn a_file_comes_whole_and_goes_on_where_it_was() {
        let (ended, kept) = took(&sent(&[b"one", b"two"], Some(hash(b"onetwo"))), b"", 6);
        assert_eq!((ended.unwrap(), kept), (Ended::Whole, b"onetwo".to_vec()));
        let (ended, kept) = took(&sent(&[b"two"], Some(hash(b"onetwo"))), b"one", 6);
        assert_eq!((ended.unwrap(), kept), (Ended::Whole, b"onetwo".to_vec()));
        assert_eq!(took(&sent(&[], Some(hash(b""))), b"", 0).0.unwrap(), Ended::Whole);
    }

    #[test]
    fn what_differs_is_not_whole() {
        assert_eq!(took(&sent(&[b"two"], Some(hash(b"onetwo"))), b"0ne", 6).0.unwrap(), Ended::Differs);
        assert_eq!(took(&sent(&[b"on"], None), b"", 6).0.unwrap(), Ended::BrokenOff);
    }

    #[test]
    fn a_file_that_is_there_is_compared() {
        let whole = |bytes: Vec<u8>| is_whole(&mut &bytes[..], &hash(b"x"));
        assert!(whole(sent(&[], Some(hash(b"x")))).unwrap());
        assert!(!whole(sent(&[], Some(hash(b"y")))).unwrap() && !whole(sent(&[], None)).unwrap());
        assert!(matches!(whole(sent(&[b"x"], Some(hash(b"x")))), Err(Failed::Misbehaved(_))));
    }

    #[test]
    fn more_or_less_than_was_said_is_refused() {
        let whole = hash(b"onetwo");
        assert!(matches!(took(&sent(&[b"onetwo"], Some(whole)), b"", 5).0, Err(Failed::Misbehaved(_))));
        assert!(matches!(took(&sent(&[b"one"], Some(whole)), b"", 6).0, Err(Failed::Misbehaved(_))));
        let long = (MAX_PIECE as u32 + 1).to_le_bytes();
        assert!(matches!(took(&long, b"", 1 << 40).0, Err(Failed::Misbehaved(_))));
        let all = sent(&[b"one"], Some(hash(b"one")));
        for cut in 0..all.len() {
            assert!(matches!(took(&all[..cut], b"", 3).0, Err(Failed::Cut(_))), "cut at {cut}");
        }
    }
}
