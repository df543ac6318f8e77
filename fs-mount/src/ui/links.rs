//! Paths and names in addresses, and as they are shown. Both are bytes that need not be text.

use std::fmt::Write;

use crate::{control::request::Names, output::printable};

/// A path as part of an address: whatever isn't plain is spelt out, but for `/`.
pub(super) fn encoded(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => text.push(char::from(*byte)),
            // Writing to a text does not fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

/// The same of a value in a query or a form.
pub(super) fn encoded_value(value: &[u8]) -> String {
    encoded(value).replace('/', "%2F")
}

/// What a part of an address stands for; nothing if that is spelt wrongly.
pub(super) fn decoded(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    Some(bytes)
}

/// The names of a path that is part of an address. Nothing if none of the volume's can be so.
pub(super) fn names(text: &str) -> Option<Names> {
    let path = decoded(text, false)?;
    let names: Names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    let is_name = |name: &Vec<u8>| name.len() <= 255 && !name.contains(&0) && name != b"." && name != b"..";
    names.iter().all(is_name).then_some(names)
}

/// A name that somebody typed, for something new.
pub(super) fn new_name(typed: &str) -> Option<Vec<u8>> {
    let name = typed.trim();
    let is_one = !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0']);
    is_one.then(|| name.as_bytes().to_vec())
}

/// The names of a path that somebody typed, from the top of the volume on.
pub(super) fn typed(path: &str) -> Option<Names> {
    path.split('/').filter(|name| !name.is_empty()).map(new_name).collect()
}

/// The path that names make.
pub(super) fn path(names: &Names) -> Vec<u8> {
    names.join(&b'/')
}

/// Bytes as they are shown: with what turns the order of letters round, or has no shape, spelt out.
pub(super) fn shown(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// A text in the same way; its lines stay lines, and its tabs tabs.
pub(super) fn shown_text(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut all = String::with_capacity(text.len());
    for piece in text.split_inclusive(['\n', '\t']) {
        let kept = piece.ends_with(['\n', '\t']);
        let (plain, end) = piece.split_at(piece.len() - usize::from(kept));
        all.push_str(&printable(plain));
        all.push_str(end);
    }
    all
}

/// Pairs of a query or a form.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// What is spelt wrongly, or isn't text, is left out.
    pub(super) fn parse(text: &str) -> Self {
        let plain = |part: &str| String::from_utf8(decoded(part, true)?).ok();
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((plain(name)?, plain(value)?))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).filter_map(pair).collect())
    }

    /// The first value of that name; nothing when it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Adds one.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_an_address() {
        for path in
            [&b"a/b c.txt"[..], b"<img src=x onerror=alert(1)>.txt", b"\xFF\n%2F?#&=+;\\", "größe/日本".as_bytes()]
        {
            let text = encoded(path);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~/%".contains(&b)), "{text}");
            assert_eq!(decoded(&text, false).unwrap(), path);
            assert_eq!(decoded(&encoded_value(path), true).unwrap(), path);
            let split: Names = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
            assert_eq!(names(&text).unwrap(), split);
        }
    }

    #[test]
    fn no_address_leads_out() {
        for bad in ["..", "a/../b", "%2e%2e", "a%2F..%2Fb", ".", "%00", "%", "%4", "%zz", "%+1"] {
            assert!(names(bad).is_none(), "{bad}");
        }
        assert_eq!(names("//a//b/").unwrap(), [b"a", b"b"]);
        for bad in ["", " ", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
            assert!(new_name(bad).is_none(), "{bad}");
        }
        assert_eq!(new_name(" a b ").unwrap(), b"a b");
        assert_eq!(typed("/a//b c/").unwrap(), [&b"a"[..], b"b c"]);
        assert!(typed("").unwrap().is_empty() && typed("a/../b").is_none());
    }

    #[test]
    fn pairs_are_what_was_typed() {
        let pairs = Pairs::parse("a=1+2%203&b=&c&a=4&%zz=5&d=%FF&e=%3Cx%3E");
        assert_eq!(pairs.get("a"), Some("1 2 3"));
        assert_eq!((pairs.get("b"), pairs.get("c"), pairs.get("d")), (None, None, None));
        assert_eq!(pairs.get("e"), Some("<x>"));
        assert_eq!(pairs.all().count(), 5);
    }

    #[test]
    fn what_turns_letters_round_is_spelt_out() {
        assert_eq!(shown("a\u{202e}gpj.exe\n".as_bytes()), "a\\u{202e}gpj.exe\\n");
        assert_eq!(shown_text("\ta\u{2067}b\r\n\nc\r\x1b"), "\ta\\u{2067}b\n\nc\\r\\u{1b}");
    }
}
