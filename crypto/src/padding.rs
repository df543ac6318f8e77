//! How long sealed things are made, so that exact sizes don't show.

/// Nothing is shorter than this.
const MIN: usize = 64;

/// Returns the length that `len` bytes are padded to: Padmé, and at least 64.
///
/// Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019, §4)
/// lets a length keep as many significant bits as its number of bits has, so at most 12 % is added and only
/// O(log log n) bits about the length show. A power of two stays as it is.
pub fn padded_len(len: usize) -> usize {
    if len <= MIN {
        return MIN;
    }
    let exponent = len.ilog2();
    let kept = exponent.ilog2() + 1;
    let mask = (1 << (exponent - kept)) - 1;
    len.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_lengths() {
        for (len, padded) in [
            (0, 64),
            (1, 64),
            (64, 64),
            (65, 72),
            (100, 104),
            (129, 144),
            (1000, 1024),
            (1025, 1088),
            (4097, 4352),
            (60_000, 61_440),
            (65_536, 65_536),
        ] {
            assert_eq!(padded_len(len), padded, "{len}");
        }
    }

    #[test]
    fn absurd_lengths_do_not_overflow() {
        padded_len(usize::MAX);
    }

    proptest! {
        #[test]
        fn adds_little_never_shrinks_and_is_stable(len in 65usize..1 << 40) {
            let padded = padded_len(len);
            prop_assert!(padded >= len);
            prop_assert!((padded - len) as f64 <= 0.12 * len as f64);
            prop_assert_eq!(padded_len(padded), padded);
        }
    }
}
