//! The test vectors of what this crate seals, and the table of labels.

#![allow(clippy::unwrap_used, reason = "one test program: what fails anywhere in it is the test")]

#[path = "../../tests/vectors/check.rs"]
mod check;

use check::{Vector, check};
use p2pfs_crypto::{
    DeviceId, Fingerprint, Hash, KeyFile, Label, PATCH_HEADER_SIZE, PassphraseCost, PatchHeader, SeededEntropy,
    SymmetricKey, UNITS, Unlock, UserId, open_block, open_padded, open_units, seal, seal_block, seal_padded,
    seal_patch,
};

const KEY: SymmetricKey = SymmetricKey::from_bytes([7; 32]);
const PASSPHRASE: &str = "correct horse";
const PLAIN: &[u8] = b"what is inside";
const KEY_INPUTS: &str = "key 07 32 times; entropy SeededEntropy(1)";
const PASSPHRASE_INPUTS: &str = "passphrase `correct horse`; 8 KiB, 1 pass, 1 lane; entropy SeededEntropy(1)";

fn entropy() -> SeededEntropy {
    SeededEntropy::new(1)
}

fn unlock(passphrase: bool) -> Unlock {
    if passphrase { Unlock::Passphrase(PASSPHRASE.to_owned().into()) } else { Unlock::Key(KEY) }
}

fn key_file(passphrase: bool) -> Vec<u8> {
    KeyFile::seal_at_cost(PLAIN, &unlock(passphrase), PassphraseCost::FOR_TESTS, &entropy())
}

/// A key file changed somewhere, with a check that holds.
fn forged(passphrase: bool, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = key_file(passphrase);
    file.truncate(file.len() - 8);
    change(&mut file);
    let check = Hash::of_bytes(Label::KeyFileCheck, &file);
    file.extend_from_slice(&check.as_bytes()[..8]);
    file
}

fn changed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

#[test]
fn key_files() {
    let (by_key, by_passphrase) = ("key file, opened by the key", "key file, opened by the passphrase");
    let damaged = "key file is damaged";
    let vectors = [
        Vector::ok("key_file_by_key", by_key, key_file(false)).with(KEY_INPUTS),
        Vector::ok("key_file_by_passphrase", by_passphrase, key_file(true)).with(PASSPHRASE_INPUTS),
        Vector::refused("key_file_empty", by_key, damaged, Vec::new()),
        Vector::refused("key_file_truncated", by_key, damaged, key_file(false)[..60].to_vec()),
        Vector::refused("key_file_wrong_check", by_key, damaged, changed(key_file(false), 90)),
        Vector::refused(
            "key_file_newer_version",
            by_key,
            "version 2, this release knows 1",
            forged(false, |f| f[8] = 2),
        ),
        Vector::refused("key_file_version_0", by_key, damaged, forged(false, |f| f[8] = 0)),
        Vector::refused("key_file_unknown_kind", by_key, damaged, forged(false, |f| f[9] = 3)),
        Vector::refused("key_file_memory_over_limit", by_passphrase, damaged, forged(true, |f| f[13] = 1)),
        Vector::refused("key_file_passes_over_limit", by_passphrase, damaged, forged(true, |f| f[14] = 17)),
        Vector::refused("key_file_no_lanes", by_passphrase, damaged, forged(true, |f| f[18] = 0)),
        Vector::refused("key_file_other_salt", by_key, "wrong key", forged(false, |f| f[30] ^= 1)),
        Vector::refused("key_file_other_passphrase", by_passphrase, "wrong passphrase", forged(true, |f| f[30] ^= 1)),
        Vector::refused("key_file_needs_passphrase", by_key, "sealed under a passphrase", key_file(true)),
        Vector::refused("key_file_needs_key", by_passphrase, "sealed under a key", key_file(false)),
    ];
    check("key_file", &vectors, |vector, bytes| {
        let unlock = unlock(vector.format == by_passphrase);
        let plain = KeyFile::open(bytes, &unlock).map_err(|e| e.to_string())?;
        Ok(KeyFile::seal_at_cost(&plain, &unlock, PassphraseCost::FOR_TESTS, &entropy()))
    });
}

#[test]
fn fingerprints() {
    let digits = |vector: &Vector| match vector.format {
        "fingerprint of a user" => Fingerprint::of_user(&UserId::from_bytes([7; 32])).to_string(),
        _ => Fingerprint::of_device(&DeviceId::from_bytes([7; 32])).to_string(),
    };
    let vectors =
        [("fingerprint_of_user", "fingerprint of a user"), ("fingerprint_of_device", "fingerprint of a device")].map(
            |(name, format)| {
                let vector = Vector::ok(name, format, Vec::new()).with("id 07 32 times; the bytes are the text");
                Vector { bytes: digits(&vector).into_bytes(), ..vector }
            },
        );
    check("fingerprint", &vectors, |vector, _| Ok(digits(vector).into_bytes()));
}

fn block(len: usize) -> Vec<u8> {
    let mut stored = Vec::new();
    let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    seal_block(&KEY, &plain, &entropy(), &mut stored);
    stored
}

#[test]
fn blocks() {
    let sealed = "stored block";
    let (malformed, forged, other) = ("malformed", "do not match their key", "sealed under another key");
    let vectors = [
        Vector::ok("block_of_one_byte", sealed, block(1)).with(KEY_INPUTS),
        Vector::ok("block_of_two_pages", sealed, block(8193)).with(KEY_INPUTS),
        Vector::refused("block_empty", sealed, malformed, Vec::new()),
        Vector::refused("block_without_pages", sealed, malformed, block(1)[..24].to_vec()),
        Vector::refused("block_with_empty_page", sealed, malformed, block(1)[..40].to_vec()),
        Vector::refused("block_changed_byte", sealed, forged, changed(block(100), 50)),
        Vector::refused("block_changed_salt", sealed, forged, changed(block(100), 10)),
        Vector::refused("block_truncated", sealed, forged, block(100)[..130].to_vec()),
        Vector::refused("block_of_another_key", sealed, other, changed(block(100), 0)),
    ];
    check("block", &vectors, |_, bytes| {
        let (mut plain, mut again) = (Vec::new(), Vec::new());
        open_block(&KEY, bytes, &mut plain).map_err(|e| e.to_string())?;
        seal_block(&KEY, &plain, &entropy(), &mut again);
        Ok(again)
    });
}

/// Each unit filled with its number, over a base of twos.
fn patch(units: u16) -> Vec<u8> {
    let plains: Vec<_> = (0..UNITS as u8).filter(|unit| units & 1 << unit != 0).map(|unit| [unit; 4096]).collect();
    let mut stored = Vec::new();
    seal_patch(&KEY, &[2; 32], units, &plains, &entropy(), &mut stored);
    stored
}

#[test]
fn patches() {
    let sealed = "stored patch";
    let (malformed, forged, other) = ("malformed", "do not match their key", "sealed under another key");
    let refused = |name, why, bytes| Vector::refused(name, sealed, why, bytes);
    let units = |units: u16| {
        let mut stored = patch(0b101);
        stored[64..66].copy_from_slice(&units.to_le_bytes());
        stored
    };
    let cut = |by: usize| patch(1)[..patch(1).len() - by].to_vec();
    let vectors = [
        Vector::ok("patch_of_the_first_unit", sealed, patch(1)).with(KEY_INPUTS),
        Vector::ok("patch_of_two_units", sealed, patch(0b1000_0000_0000_0100)).with(KEY_INPUTS),
        refused("patch_empty", malformed, Vec::new()),
        refused("patch_of_no_units", malformed, units(0)),
        refused("patch_of_all_units", malformed, units(u16::MAX)),
        refused("patch_of_more_units_than_it_has", malformed, units(0b111)),
        refused("patch_of_fewer_units_than_it_has", malformed, units(1)),
        refused("patch_of_other_units", forged, units(0b110)),
        refused("patch_truncated", malformed, cut(1)),
        refused("patch_trailing_byte", malformed, [patch(1), vec![0]].concat()),
        refused("patch_without_units", malformed, patch(1)[..PATCH_HEADER_SIZE].to_vec()),
        refused("patch_changed_magic", malformed, changed(patch(1), 0)),
        refused("patch_changed_salt", forged, changed(patch(1), 8)),
        refused("patch_of_another_key", other, changed(patch(1), 24)),
        refused("patch_over_another_base", forged, changed(patch(1), 32)),
        refused("patch_changed_byte", forged, changed(patch(1), 100)),
    ];
    check("patch", &vectors, |_, bytes| {
        let header = PatchHeader::parse_whole(bytes).map_err(|e| e.to_string())?;
        let mut plain = Vec::new();
        open_units(&KEY, &header, 0..UNITS, &bytes[PATCH_HEADER_SIZE..], &mut plain).map_err(|e| e.to_string())?;
        let (plain, _) = plain.as_chunks();
        let mut again = Vec::new();
        seal_patch(&KEY, header.base(), header.units(), plain, &entropy(), &mut again);
        Ok(again)
    });
}

#[test]
fn padded_values() {
    let format = "padded sealed value";
    let padded = |inner: Vec<u8>| seal(&KEY, b"aad", &inner, &entropy());
    let inner = |len: u32, total: usize| {
        let mut inner = len.to_le_bytes().to_vec();
        inner.resize(total, 0);
        inner
    };
    let mut filled = inner(3, 64);
    filled[63] = 1;
    let inputs = "key 07 32 times; aad `aad`; entropy SeededEntropy(1)";
    let malformed = "malformed";
    let vectors = [
        Vector::ok("padded_short", format, seal_padded(&KEY, b"aad", b"short", &entropy())).with(inputs),
        Vector::ok("padded_longer", format, seal_padded(&KEY, b"aad", &[5; 66], &entropy())).with(inputs),
        Vector::refused("padded_without_length", format, malformed, padded(vec![0; 3])).with(inputs),
        Vector::refused("padded_too_little", format, malformed, padded(inner(3, 63))).with(inputs),
        Vector::refused("padded_too_much", format, malformed, padded(inner(3, 72))).with(inputs),
        Vector::refused("padded_length_over_text", format, malformed, padded(inner(61, 64))).with(inputs),
        Vector::refused("padded_filling_not_zero", format, malformed, padded(filled)).with(inputs),
    ];
    check("padded", &vectors, |_, bytes| {
        let plain = open_padded(&KEY, b"aad", bytes).map_err(|e| e.to_string())?;
        Ok(seal_padded(&KEY, b"aad", &plain, &entropy()))
    });
}

#[test]
fn the_table_of_labels_is_the_one_in_the_format() {
    let format = include_str!("../../docs/format.md");
    let (_, rest) = format.split_once("\n## Labels\n").unwrap();
    let (table, _) = rest.split_once("\n## ").unwrap();
    let rows: Vec<(String, String)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let (name, rest) = line.split_once("` | `").unwrap();
            (name.to_owned(), rest.split_once('`').unwrap().0.to_owned())
        })
        .collect();
    let mut labels: Vec<(String, String)> =
        Label::ALL.iter().map(|label| (format!("{label:?}"), label.as_str().to_owned())).collect();
    let mut written = rows;
    labels.sort();
    written.sort();
    assert_eq!(written, labels);
}
