//! Every decoder of this crate by the name of its format, for the fuzz targets (`tests/fuzz`) and the test vectors
//! (`tests/vectors`): decodes, and encodes again what it understood.
//!
//! Owns no decoder: each name leads to the one that the volume uses.

use crypto::Signature;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Ino,
    acl::Acl,
    agreed::{SettingRow, SnapshotRow},
    commit::{
        AccessBody, BirthBody, ClaimedCommit, ContentBody, Head, Header, MemberBody, MetaBody, PlaceBody, RawChange,
        SettingBody, SnapshotBody, XattrBody, decode, encode,
    },
    content::BlockHash,
    core::{CommitRow, Counters},
    error::Error,
    member::MemberRow,
    proof::Proof,
    row::{Entry, Link, NodeRow, Xattr},
    sync::Message,
    version::{Branch, ValueRef},
};

/// The formats whose values have one encoding only: what decodes is what encoding gives.
pub const CANONICAL: [&str; 19] = [
    "commit",
    "header",
    "head",
    "change",
    "message",
    "body_birth",
    "body_access",
    "body_meta",
    "body_xattr",
    "body_content",
    "body_place",
    "body_member",
    "list_node",
    "patch",
    "block_row",
    "body_setting",
    "body_snapshot",
    "proof",
    "letter",
];
/// The formats that only this device writes, where a second encoding of a value does no harm.
pub const OWN: [&str; 18] = [
    "row_counters",
    "row_branch",
    "row_commit",
    "row_change",
    "row_node",
    "row_entry",
    "row_member",
    "row_wanted",
    "row_synced_point",
    "draft_head",
    "draft_changes",
    "draft_header",
    "acl",
    "row_link",
    "row_xattr",
    "archive",
    "row_setting",
    "row_snapshot",
];

/// Decodes `bytes` as `format` says, and encodes the value.
///
/// # Errors
/// Why the volume refuses them, as its own error says it.
pub fn recode(format: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    match format {
        "commit" => {
            let claimed: ClaimedCommit = strict(bytes)?;
            Ok(encode(&claimed.check().map_err(told)?.raw))
        }
        "header" => strict::<Header>(bytes).map(|v| encode(&v)),
        "head" => strict::<Head>(bytes).map(|v| encode(&v)),
        "change" => strict::<RawChange>(bytes).map(|v| encode(&v)),
        "message" => Message::decode(bytes).map(|m| m.encode()).map_err(told),
        "body_birth" => strict::<BirthBody>(bytes).map(|v| encode(&v)),
        "body_access" => strict::<AccessBody>(bytes).map(|v| encode(&v)),
        "body_meta" => strict::<MetaBody>(bytes).map(|v| encode(&v)),
        "body_xattr" => strict::<XattrBody>(bytes).map(|v| encode(&v)),
        "body_content" => {
            let body: ContentBody = strict(bytes)?;
            body.content.validate().map_err(told)?;
            Ok(encode(&body))
        }
        "body_place" => strict::<PlaceBody>(bytes).map(|v| encode(&v)),
        "body_member" => strict::<MemberBody>(bytes).map(|v| encode(&v)),
        "body_setting" => strict::<SettingBody>(bytes).map(|v| encode(&v)),
        "body_snapshot" => strict::<SnapshotBody>(bytes).map(|v| encode(&v)),
        "proof" => {
            let proof = Proof::decode(bytes).map_err(told)?;
            proof.check().map_err(told)?;
            Ok(proof.encode())
        }
        "letter" => crate::letters::fuzzing::recode(bytes).map_err(told),
        "list_node" => crate::content::fuzzing::list_node(bytes).map_err(told),
        "patch" => crate::content::fuzzing::patch(bytes).map_err(told),
        "block_row" => crate::content::fuzzing::block_row(bytes).map_err(told),
        "row_counters" => own::<Counters>("counters", bytes),
        "row_branch" => own::<Branch>("branch", bytes),
        "row_commit" => own::<CommitRow>("commit", bytes),
        "row_change" => own::<RawChange>("change", bytes),
        "row_node" => own::<NodeRow>("node", bytes),
        "row_link" => own::<Link>("link", bytes),
        "row_xattr" => own::<Xattr>("extended attribute", bytes),
        "row_entry" => own::<Entry>("entry", bytes),
        "row_member" => own::<MemberRow>("membership record", bytes),
        "row_setting" => own::<SettingRow>("setting", bytes),
        "row_snapshot" => own::<SnapshotRow>("snapshot", bytes),
        "row_wanted" => own::<(BlockHash, u64)>("wanted content", bytes),
        "row_synced_point" => crate::content::fuzzing::synced_point(bytes).map_err(told),
        "draft_head" => crate::content::fuzzing::draft_head(bytes).map_err(told),
        "draft_changes" => crate::content::fuzzing::draft_changes(bytes).map_err(told),
        "draft_header" => own::<(Vec<ValueRef>, crate::Timestamp)>("draft's header", bytes),
        "archive" => crate::archive::fuzzing::recode(bytes).map_err(told),
        "acl" => Acl::parse(bytes).map(|list| list.encode()).map_err(told),
        unknown => Err(format!("no format `{unknown}`")),
    }
}

/// Whether kernel and peers may use this as an entry's name.
pub fn is_name(name: &[u8]) -> bool {
    crate::apply::is_name(name)
}

/// A name with a suffix before its extension, as conflicting entries show.
pub fn with_suffix(name: &[u8], suffix: &str) -> Vec<u8> {
    crate::tree::with_suffix(name, suffix)
}

/// What an access list makes of a mode: set, then inherited by a new entry.
pub fn acl_modes(bytes: &[u8], mode: u16) -> Option<(u16, u16)> {
    let mut list = Acl::parse(bytes).ok()?;
    list.set_mode(mode);
    let (inherited, new) = list.inherit(mode);
    Acl::parse(&inherited.encode()).ok()?;
    Some((list.mode(), new))
}

/// The intent log's keys of one inode: the first row's, and the `number`-th row of changes'.
pub fn draft_keys(ino: Ino, number: u64) -> (Vec<u8>, Vec<u8>) {
    crate::content::fuzzing::draft_keys(ino.0, number)
}

/// A segment of the archive with these records: arrival number, commit.
pub fn archive_segment(records: &[(u64, Vec<u8>)]) -> Vec<u8> {
    crate::archive::fuzzing::segment(records)
}

/// A proof made of two signed headers, whatever they say.
pub fn proof(one: (Vec<u8>, Signature), other: (Vec<u8>, Signature)) -> Vec<u8> {
    Proof::of(one, other).encode()
}

/// What is whole in a segment of the archive, by arrival number, and how many bytes are not.
pub fn archive_pieces(segment: &[u8]) -> (Vec<(u64, Vec<u8>)>, usize) {
    crate::archive::fuzzing::pieces(segment)
}

/// Opens the archive in `dir`, of a store that can't read any of its commits. Returns the number up to which it goes.
///
/// # Errors
/// Why it is refused.
pub fn archive_opened(dir: &std::path::Path, last: u64) -> Result<u64, String> {
    crate::archive::fuzzing::open(dir, last).map_err(told)
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn strict<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    decode("value", bytes).map_err(told)
}

fn own<T: Serialize + DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let value: T = crate::core::decode_row(what, bytes).map_err(|e: Error| told(e))?;
    Ok(encode(&value))
}
