//! A user's exported key as text: to be printed, kept, and typed in again.
//!
//! Owns the lines and what is in them (`docs/format.md`, "Exported key"). Each line has a number and a checksum of its
//! own, so that whoever types it in is told which line is wrong. What is in it is sealed under a passphrase.

use std::collections::BTreeMap;

use crypto::{Entropy, Hash, KeyFile, KeyFileError, Label, SymmetricKey, Unlock, VolumeId};
use data_encoding::BASE32_NOPAD;
use peer_net::swarm::KnownPeer;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    failure::{Failure, Outcome},
    unlock::Passphrase,
};

/// What the first line begins with, before the number of the format.
const TITLE: &str = "p2pfs exported key, format ";
const FORMAT: u32 = 1;
/// What the last line begins with, before the number of lines.
const END: &str = "end of the key, lines: ";
/// Bytes in a line: forty letters.
const LINE: usize = 25;
/// Letters in a group.
const GROUP: usize = 5;
/// Letters of a line's checksum.
const CHECK: usize = 4;
/// Longer texts are not looked at; a key has some thirty lines.
const MAX_TEXT: usize = 256 << 10;
/// Where members were: so many of them, and so many addresses of each.
const PEERS: usize = 4;
const ADDRESSES: usize = 2;

/// What is needed to be a user again.
#[derive(Serialize, Deserialize)]
pub(crate) struct ExportedKey {
    pub(crate) volume: VolumeId,
    /// The user's name.
    pub(crate) user: String,
    #[serde(with = "serde_bytes")]
    pub(crate) signing: Vec<u8>,
    /// The user's encryption keys, as [`volume::UserSecrets`] writes them.
    #[serde(with = "serde_bytes")]
    pub(crate) secrets: Vec<u8>,
    /// The secret half of the invitation.
    #[serde(with = "serde_bytes")]
    pub(crate) ticket: Vec<u8>,
    /// The key of the newest epoch.
    pub(crate) epoch: SymmetricKey,
    pub(crate) registries: Vec<String>,
    pub(crate) peers: Vec<KnownPeer>,
}

impl Drop for ExportedKey {
    fn drop(&mut self) {
        self.signing.zeroize();
        self.secrets.zeroize();
        self.ticket.zeroize();
    }
}

impl ExportedKey {
    /// The text, sealed under a passphrase. `about` says what it is, in clear.
    pub(crate) fn to_text(&self, passphrase: &Passphrase, about: &[String], entropy: &dyn Entropy) -> Vec<String> {
        let plain = Zeroizing::new(rmp_serde::to_vec(self).expect("a key can be encoded"));
        let sealed = KeyFile::seal(&plain, &Unlock::Passphrase(passphrase.clone()), entropy);
        let mut lines = vec![format!("{TITLE}{FORMAT}")];
        lines.extend_from_slice(about);
        lines.push(String::new());
        lines.extend(to_lines(&sealed));
        lines
    }

    /// The inverse.
    pub(crate) fn from_text(text: &str, passphrase: &Passphrase) -> Outcome<Self> {
        let sealed = from_lines(text).map_err(Failure::new)?;
        let opened = KeyFile::open(&sealed, &Unlock::Passphrase(passphrase.clone()));
        let plain = opened.map_err(|error| {
            Failure::new(match error {
                KeyFileError::WrongPassphrase => "wrong passphrase for the exported key",
                KeyFileError::NewerVersion { .. } => "this exported key is of a newer p2pfs: use that",
                _ => "the exported key is damaged",
            })
        })?;
        rmp_serde::from_slice(&plain).map_err(|_| Failure::new("the exported key is damaged"))
    }

    /// Members to look for, cut to what is put into a key.
    pub(crate) fn likeliest(mut peers: Vec<KnownPeer>) -> Vec<KnownPeer> {
        peers.retain(|peer| !peer.addresses.is_empty());
        peers.truncate(PEERS);
        peers.iter_mut().for_each(|peer| peer.addresses.truncate(ADDRESSES));
        peers
    }
}

fn to_lines(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = (1..)
        .zip(bytes.chunks(LINE))
        .map(|(number, part)| {
            let letters = BASE32_NOPAD.encode(part).to_ascii_lowercase();
            let groups: Vec<&str> = letters.as_bytes().chunks(GROUP).filter_map(|g| str::from_utf8(g).ok()).collect();
            format!("{number:>3}  {}  {}", groups.join(" "), check(number, part))
        })
        .collect();
    lines.push(format!("{END}{}", lines.len()));
    lines
}

/// Reads the lines; in any order, and with other lines between them.
fn from_lines(text: &str) -> Result<Vec<u8>, String> {
    if text.len() > MAX_TEXT {
        return Err("this is no exported key: it is too long".to_owned());
    }
    let mut parts: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let (mut titled, mut count) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(format) = line.strip_prefix(TITLE) {
            match format.trim().parse() {
                Ok(FORMAT) => titled = true,
                _ => {
                    return Err(format!(
                        "this exported key has format {format}, this p2pfs knows {FORMAT}: use a newer one"
                    ));
                }
            }
        } else if let Some(end) = line.strip_prefix(END) {
            count = end.trim().parse::<u32>().ok();
        } else if let Some((number, part)) = line_of(line)?
            && parts.insert(number, part.clone()).is_some_and(|other| other != part)
        {
            return Err(format!("line {number} is there twice, and not the same"));
        }
    }
    if !titled && parts.is_empty() {
        return Err("this is no exported key: `p2pfs key export` makes one".to_owned());
    }
    let count = count.ok_or("the end of the exported key is missing: its last line tells how many there are")?;
    if let Some(missing) = (1..=count).find(|number| !parts.contains_key(number)) {
        return Err(format!("line {missing} of the exported key is missing"));
    }
    Ok(parts.into_iter().filter(|(number, _)| *number <= count).flat_map(|(_, part)| part).collect())
}

/// The number and the bytes of a line, if it is one of those with a number.
fn line_of(line: &str) -> Result<Option<(u32, Vec<u8>)>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [number, groups @ .., sum] = &words[..] else { return Ok(None) };
    let Ok(number) = number.parse::<u32>() else { return Ok(None) };
    if groups.is_empty() {
        return Ok(None);
    }
    // What looks alike is taken for what can be meant.
    let meant = |c: char| match c.to_ascii_uppercase() {
        '0' => 'O',
        '1' => 'L',
        '8' => 'B',
        other => other,
    };
    let letters: String = groups.concat().chars().map(meant).collect();
    let wrong = || format!("line {number} of the exported key is not as it was printed: look at it again");
    let part = BASE32_NOPAD.decode(letters.as_bytes()).map_err(|_| wrong())?;
    let sum: String = sum.chars().map(meant).collect();
    if part.len() > LINE || check(number, &part).to_ascii_uppercase() != sum {
        return Err(wrong());
    }
    Ok(Some((number, part)))
}

fn check(number: u32, part: &[u8]) -> String {
    let hash = Hash::of(Label::ExportedKeyLine, &[&number.to_le_bytes(), part]);
    let mut letters = BASE32_NOPAD.encode(hash.as_bytes()).to_ascii_lowercase();
    letters.truncate(CHECK);
    letters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crypto::SeededEntropy;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * 7) as u8).collect()
    }

    fn text(count: usize) -> String {
        format!("{TITLE}{FORMAT}\nWhoever has this is alice.\n\n{}\n", to_lines(&bytes(count)).join("\n"))
    }

    #[test]
    fn lines_are_frozen() {
        let lines = to_lines(&bytes(30));
        assert_eq!(lines[0], "  1  aadq4 fi4em vdcob 7izgv iw3cn fyho7 ufrsj zvini  4ubs");
        assert_eq!(lines[2], "end of the key, lines: 2");
    }

    #[test]
    fn what_is_printed_reads_back_as_typed() {
        for count in [1, 24, 25, 26, 600] {
            let text = text(count);
            assert_eq!(from_lines(&text).unwrap(), bytes(count), "{count}");
            // In capitals, with other spaces, with look-alikes, in another order.
            let mut lines: Vec<String> = text.lines().skip(3).map(|line| line.replace("  ", " \t ")).collect();
            lines.reverse();
            let typed: Vec<String> = lines
                .iter()
                .map(|line| match line.starts_with(END) {
                    true => line.clone(),
                    false => line.to_ascii_uppercase().replacen('O', "0", 1).replacen('B', "8", 1),
                })
                .collect();
            assert_eq!(from_lines(&typed.join("\n")).unwrap(), bytes(count), "{count}");
        }
    }

    #[test]
    fn a_slip_is_told_with_its_line() {
        let good = text(100);
        let check = |text: String, wanted: &str| {
            let why = from_lines(&text).unwrap_err();
            assert!(why.contains(wanted), "{why}");
        };
        let lines: Vec<&str> = good.lines().collect();
        let without = |number: usize| {
            let kept: Vec<&str> = (0..lines.len()).filter(|i| *i != number).map(|i| lines[i]).collect();
            kept.join("\n")
        };
        check(without(4), "line 2 of the exported key is missing");
        check(without(lines.len() - 1), "the end");
        check(without(lines.len() - 2), "line 4 of the exported key is missing");
        // Every letter of a line counts, and so does its place.
        let third = lines[5];
        for (at, letter) in third.char_indices().filter(|(_, c)| c.is_ascii_lowercase()) {
            let mut typed = third.to_owned();
            typed.replace_range(at..=at, if letter == 'x' { "y" } else { "x" });
            check(good.replace(third, &typed), "line 3");
        }
        check(good.replace(third, &third.replacen('3', "9", 1)), "line 9");
        check("hello\nworld".to_owned(), "no exported key");
        check(good.replace("format 1", "format 2"), "format 2, this p2pfs knows 1");
        check("x".repeat(MAX_TEXT + 1), "too long");
    }

    #[test]
    fn a_key_opens_with_its_passphrase_only() {
        let key = ExportedKey {
            volume: VolumeId::from_bytes([1; 32]),
            user: "alice".to_owned(),
            signing: vec![2; 32],
            secrets: vec![3; 36],
            ticket: vec![4; 32],
            epoch: SymmetricKey::from_bytes([5; 32]),
            registries: vec!["192.0.2.1:4477#00".to_owned()],
            peers: Vec::new(),
        };
        let passphrase = Zeroizing::new("horse".to_owned());
        let text = key.to_text(&passphrase, &["for alice".to_owned()], &SeededEntropy::new(1)).join("\n");
        assert!(text.lines().all(|line| line.len() < 70), "{text}");
        let read = ExportedKey::from_text(&text, &passphrase).unwrap();
        assert_eq!((read.user.as_str(), &read.signing, &read.ticket), ("alice", &key.signing, &key.ticket));
        assert!(read.epoch == key.epoch && read.secrets == key.secrets);
        let wrong = ExportedKey::from_text(&text, &Zeroizing::new("zebra".to_owned())).err().unwrap().to_string();
        assert_eq!(wrong, "wrong passphrase for the exported key");
    }
}
