//! Whether a file still looks like what it was: a few pages of before and after, side by side.
//!
//! What is encrypted can't be told from noise. So can't what is compressed, but that begins with what says so; and who
//! saves a picture or a package anew leaves that in its place.

use std::collections::HashSet;

/// Bytes of a page that is looked at.
pub(crate) const PAGE: usize = 4096;
/// Fewer say nothing.
const LEAST: usize = 24;

/// How well-known formats begin that look like noise further on.
const BEGINNINGS: [&[u8]; 29] = [
    b"\x1F\x8B\x08",
    b"BZh",
    b"\xFD7zXZ\0",
    b"\x28\xB5\x2F\xFD",
    b"\x04\x22\x4D\x18",
    b"7z\xBC\xAF\x27\x1C",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"Rar!\x1A\x07",
    b"\x78\x01",
    b"\x78\x5E",
    b"\x78\x9C",
    b"\x78\xDA",
    b"\xFF\xD8\xFF",
    b"\x89PNG\r\n\x1A\n",
    b"GIF8",
    b"RIFF",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"\xFF\xFB",
    b"\x1A\x45\xDF\xA3",
    b"\0\0\x01\xBA",
    b"%PDF-",
    b"wOF",
    b"PACK",
    b"DIRC",
    b"\xD0\xCF\x11\xE0",
    b"\x7FELF",
];

/// What a page of a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Too little to say, or the same byte over and over.
    Nothing,
    /// Something that people or programs read.
    Ordered,
    /// Noise.
    Noise,
}

fn has_known_beginning(page: &[u8]) -> bool {
    // Media containers say what they are behind a length.
    BEGINNINGS.iter().any(|known| page.starts_with(known)) || page.get(4..8) == Some(b"ftyp")
}

/// Noise, written in letters and digits: base 64 or hexadecimal without anything between.
fn is_spelled_noise(page: &[u8]) -> bool {
    let lines: Vec<&[u8]> = page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let longest = lines.iter().map(|line| line.len()).max().unwrap_or(0);
    let spelled = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_\r".contains(byte);
    longest >= 40 && lines.concat().iter().all(spelled) && {
        // Digits and both cases all over, as no word has them.
        let kinds = |line: &[u8]| {
            line.windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit()).count() * 8 >= line.len()
        };
        lines.iter().filter(|line| line.len() >= 40).all(|line| kinds(line))
    }
}

fn look(page: &[u8]) -> Look {
    if page.len() < LEAST {
        return Look::Nothing;
    }
    let mut counts = [0u32; 256];
    page.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    if counts.iter().filter(|count| **count > 0).count() <= 2 {
        return Look::Nothing;
    }
    if is_spelled_noise(page) {
        return Look::Noise;
    }
    if std::str::from_utf8(page).is_ok_and(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace())) {
        return Look::Ordered;
    }
    // Pearson's test against every byte being as likely as any other: its expectation for noise is 255, its deviation 22.6;
    // of short pages, where few bytes can repeat, as well.
    let expected = page.len() as f64 / 256.0;
    let deviation: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    // (In short ones a byte that comes up four times weighs much.)
    let allowed = if page.len() < 1024 { 15.0 } else { 6.0 };
    if deviation < 255.0 + allowed * 22.6 { Look::Noise } else { Look::Ordered }
}

/// Where to look at a file of so many bytes.
pub(crate) fn places(size: u64) -> Vec<u64> {
    let page = PAGE as u64;
    let places = [0, size / 2 / page * page, size.saturating_sub(1) / page * page];
    let mut seen = HashSet::new();
    places.into_iter().filter(|place| seen.insert(*place)).collect()
}

/// Whether pages that could be read are noise or gone now, each given with what is in its place.
pub(crate) fn is_ruined(pages: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let Some((first, now)) = pages.first() else { return false };
    let lost_its_beginning = has_known_beginning(first) && look(now) == Look::Noise && !has_known_beginning(now);
    // (The page of a saved package that had been its directory is noise afterwards.)
    let keeps = has_known_beginning(now);
    let became_noise = |(before, now): &(Vec<u8>, Vec<u8>)| look(before) == Look::Ordered && look(now) == Look::Noise;
    let was_ordered = pages.iter().any(|(before, _)| look(before) == Look::Ordered || has_known_beginning(before));
    let is_gone = pages.iter().all(|(_, now)| look(now) == Look::Nothing);
    lost_its_beginning || !keeps && pages.iter().any(became_noise) || was_ordered && is_gone
}

/// Whether what was there was something that people or programs read.
pub(crate) fn is_something(pages: &[Vec<u8>]) -> bool {
    pages.iter().any(|page| look(page) == Look::Ordered) || pages.first().is_some_and(|page| has_known_beginning(page))
}

/// Whether what is new looks like noise that says of nothing what it is.
pub(crate) fn is_noise(pages: &[Vec<u8>]) -> bool {
    pages.first().is_some_and(|page| look(page) == Look::Noise && !has_known_beginning(page))
}

#[cfg(test)]
mod tests {
    use crypto::{Entropy as _, OsEntropy};

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        OsEntropy.fill(&mut bytes);
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        "What was written on a day in autumn, 12 words to a line.\n".bytes().cycle().take(len).collect()
    }

    fn ruined(before: &[u8], now: &[u8]) -> bool {
        is_ruined(&[(before.to_vec(), now.to_vec())])
    }

    #[test]
    fn encrypted_files_are_told_from_others() {
        for len in [40, 100, 300, 1000, 4096] {
            for _ in 0..50 {
                assert!(ruined(&text(len), &noise(len)), "{len}");
            }
            assert!(!ruined(&text(len), &text(len)[7..]));
            let spelled = data_encoding::BASE64.encode(&noise(len * 3 / 4)).into_bytes();
            assert!(ruined(&text(len), &spelled), "{len}: {}", String::from_utf8_lossy(&spelled));
            assert!(ruined(&text(len), &vec![0; len]), "wiped");
            assert!(ruined(&text(len), b""), "emptied");
        }
        let picture = [b"\xFF\xD8\xFF\xE0".as_slice(), &noise(4092)].concat();
        assert!(ruined(&picture, &noise(4096)));
        assert!(!ruined(&picture, &[b"\xFF\xD8\xFF\xE1".as_slice(), &noise(4092)].concat()), "saved anew");
        assert!(!ruined(&noise(4096), &noise(4096)), "it was noise before");
        assert!(!ruined(b"", &noise(100)), "it was empty");
    }

    #[test]
    fn only_a_part_is_enough() {
        let pages = [(text(4096), text(4096)), (text(4096), noise(4096)), (text(4096), text(4096))];
        assert!(is_ruined(&pages));
        assert!(!is_ruined(&pages[..1]));
    }

    #[test]
    fn programs_and_tables_are_not_noise() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for place in places(program.len() as u64) {
            let page = &program[place as usize..(place as usize + PAGE).min(program.len())];
            assert!(look(page) != Look::Noise, "at {place}");
        }
        let numbers: Vec<u8> = (0..1024u32).flat_map(|n| (n * 977).to_le_bytes()).collect();
        assert_eq!(look(&numbers), Look::Ordered);
        let words = b"-----BEGIN PUBLIC KEY-----\nsomething else, not that long\n";
        assert_eq!(look(words), Look::Ordered);
        assert!(!is_noise(&[]));
        assert!(!is_noise(&[[b"PK\x03\x04".as_slice(), &noise(4000)].concat()]));
        assert!(is_noise(&[noise(4000)]));
    }

    #[test]
    fn every_place_lies_within() {
        for size in [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1] {
            assert!(places(size).iter().all(|place| *place == 0 || *place < size), "{size}");
        }
        assert_eq!(places(1 << 20), [0, 1 << 19, (1 << 20) - 4096]);
    }
}
