//! The test vectors of what this crate writes: commits, heads, bodies, messages, list nodes, packs, archives, rows, drafts.

#[path = "../../tests/vectors/check.rs"]
mod check;

use std::{fs, sync::Arc};

use check::{Vector, check};
use crypto::{
    DeviceKeys, EpochId, Hash, Label, PublicKey, SeededEntropy, Signature, SymmetricKey, UserId, UserKeys, VolumeId,
};

use crate::{
    BlockHash, BlockStore, Ino, Message, NodeKind, Role, Timestamp,
    agreed::{SettingRow, SettingValue, SnapshotRow},
    commit::{
        AccessBody, AccessHead, BirthBody, ChangeKind, ClaimedCommit, ContentBody, DeviceBox, Head, Header, MemberBody,
        MetaBody, PlaceBody, RawChange, SealedKey, SettingBody, SnapshotBody, XattrBody, changes_root, commit_hash,
        encode,
    },
    content::{Content, ContentData, Packs},
    core::{CommitRow, Counters},
    fuzzing::{self, recode},
    id::{CommitHash, LinkId, NodeId, RealmId, ValueId},
    invitations::{Withdrawal, WithdrawnRow},
    keeper::WatchRow,
    letters,
    member::{DeviceRow, EpochRow, InviteRow, MemberRow, StandingValue, UserRow},
    memory_store::MemoryStore,
    own_devices::{DeviceInvitation, DeviceInviteRow, SecretRow, UserKeyValue, UserKeysRow},
    proof::Proof,
    row::{
        Access, Claim, ContentValue, Derived, Entry, Link, Meta, Node, NodeRow, Place, Shown, Value, Xattr, XattrValue,
    },
    sealed_store::SealedStore,
    spilled::Spilled,
    store::{Batch, Space},
    sync::Tip,
    version::{Branch, BranchNo, Dot, ValueRef},
};

const TIME: Timestamp = Timestamp { secs: 1_795_338_900, nanos: 5 };
const NODE: NodeId = NodeId::from_bytes([0x11; 16]);
const LINK: LinkId = LinkId::from_bytes([0x22; 16]);
const EPOCH: EpochId = EpochId::from_bytes([0x33; 32]);
const COMMIT: CommitHash = CommitHash::from_bytes([0x44; 32]);
const ROOT: BlockHash = BlockHash::from_bytes([0x55; 32]);
const KEY: SymmetricKey = SymmetricKey::from_bytes([0x66; 32]);
const AT: ValueRef = ValueRef { dot: Dot { branch: BranchNo(1), seq: 2 }, index: 3 };
const NO_VALUE: &str = "not a well-formed value";

fn device() -> DeviceKeys {
    DeviceKeys::generate(&SeededEntropy::new(1))
}

fn user() -> UserKeys {
    UserKeys::generate(&SeededEntropy::new(2))
}

fn by_format(vector: &Vector, bytes: &[u8]) -> Result<Vec<u8>, String> {
    recode(vector.format, bytes)
}

fn and(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(more);
    bytes
}

fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 1].to_vec()
}

fn access_head() -> AccessHead {
    AccessHead {
        owner: UserId::from_bytes([0x77; 32]),
        realm: RealmId::MEMBERS,
        epoch: EPOCH,
        generation: 1,
        wrapped: vec![0x88; 72],
        mode: 0o660,
        grants: Vec::new(),
    }
}

fn sealed_key() -> SealedKey {
    SealedKey { user: UserId::from_bytes([0x77; 32]), generation: 1, epoch: EPOCH, sealed: vec![0x99; 80] }
}

fn head(kind: ChangeKind) -> Head {
    let value = |index| ValueId { commit: COMMIT, index };
    Head { call: 0, kind, supersedes: vec![value(1), value(2)] }
}

fn change(kind: ChangeKind) -> RawChange {
    RawChange { head: encode(&Head { supersedes: Vec::new(), ..head(kind) }), body: vec![0xAA; 104] }
}

fn changes() -> Vec<RawChange> {
    vec![
        change(ChangeKind::Birth { kind: NodeKind::File, access: access_head() }),
        change(ChangeKind::Place { link: None, child: NODE, parent: NodeId::ZERO, generation: 1 }),
    ]
}

/// A commit of the fixed device with these changes, its header changed before it was signed.
fn commit(changes: Vec<RawChange>, f: impl FnOnce(&mut Header)) -> ClaimedCommit {
    let mut header = Header {
        version: 1,
        volume: VolumeId::from_bytes([1; 32]),
        device: device().id(),
        log: 0,
        seq: 2,
        prev: COMMIT,
        observed: vec![CommitHash::from_bytes([5; 32]), CommitHash::from_bytes([6; 32])],
        count: 9,
        time: TIME,
        root: changes_root(changes.iter()),
        changes: changes.len() as u32,
    };
    f(&mut header);
    signed(encode(&header), changes)
}

fn signed(header: Vec<u8>, changes: Vec<RawChange>) -> ClaimedCommit {
    let signature = device().signing.sign(Label::CommitSignature, &header);
    ClaimedCommit { header, signature, changes }
}

#[test]
fn commits() {
    let good = || commit(changes(), |_| {});
    let bytes = encode(&good());
    let rule = |name, why, f: fn(&mut Header)| Vector::refused(name, "commit", why, encode(&commit(changes(), f)));
    let heads = |name, why, f: fn(&mut Head)| {
        let mut kept = head(ChangeKind::Settle { node: NODE });
        f(&mut kept);
        let changes = vec![RawChange { head: encode(&kept), body: Vec::new() }];
        Vector::refused(name, "commit", why, encode(&commit(changes, |_| {})))
    };
    // The version as an integer of two bytes, where one is enough.
    let long = {
        let mut header = good().header;
        assert_eq!(header[1], 1);
        header.splice(1..2, [0xcc, 1]);
        encode(&signed(header, changes()))
    };
    let mut forged = good();
    forged.signature = Signature::ZERO;
    let mut exchanged = good();
    exchanged.changes[0].body = vec![0xBB; 104];
    let mut missing = good();
    missing.changes.pop();
    let loose = signed(good().header, vec![RawChange { head: cut(&changes()[0].head), body: Vec::new() }]);
    let loose = commit(loose.changes, |_| {});
    let removal = encode(&Head { call: 0, ..head(ChangeKind::Removal { link: LINK, child: NODE, time: TIME }) });
    let removal = RawChange { head: removal, body: Vec::new() };
    let inputs = "device keys generated from SeededEntropy(1)";
    let vectors = [
        Vector::ok("commit_of_a_new_file", "commit", bytes.clone()).with(inputs),
        Vector::ok("commit_without_changes", "commit", encode(&commit(Vec::new(), |_| {}))).with(inputs),
        Vector::ok("commit_of_a_removal", "commit", encode(&commit(vec![removal], |_| {}))).with(inputs),
        Vector::ok(
            "commit_first_of_a_log",
            "commit",
            encode(&commit(changes(), |h| {
                (h.seq, h.prev, h.observed) = (1, CommitHash::ZERO, Vec::new());
            })),
        )
        .with(inputs),
        Vector::refused("commit_truncated", "commit", NO_VALUE, cut(&bytes)),
        Vector::refused(
            "commit_truncated_signature",
            "commit",
            NO_VALUE,
            encode(&(serde_bytes::Bytes::new(&good().header), serde_bytes::Bytes::new(&[0; 63]), changes())),
        ),
        Vector::refused("commit_trailing_byte", "commit", NO_VALUE, and(bytes, &[0])),
        Vector::refused("commit_header_long_integer", "commit", "not a well-formed header", long),
        Vector::refused(
            "commit_header_trailing_byte",
            "commit",
            "not a well-formed header",
            encode(&signed(and(good().header, &[0]), changes())),
        ),
        Vector::refused("commit_other_signature", "commit", "signature does not match", encode(&forged)),
        Vector::refused("commit_exchanged_body", "commit", "do not match the signed root", encode(&exchanged)),
        Vector::refused("commit_missing_change", "commit", "do not match the signed root", encode(&missing)),
        Vector::refused("commit_truncated_head", "commit", "not a well-formed head", encode(&loose)),
        rule("commit_newer_version", "format version 2, this program knows 1", |h| h.version = 2),
        rule("commit_seq_zero", "impossible header", |h| h.seq = 0),
        rule("commit_first_with_predecessor", "impossible header", |h| h.seq = 1),
        rule("commit_without_predecessor", "impossible header", |h| h.prev = CommitHash::ZERO),
        rule("commit_count_zero", "impossible header", |h| h.count = 0),
        rule("commit_nanoseconds_over_limit", "impossible header", |h| h.time.nanos = 1_000_000_000),
        rule("commit_observed_out_of_order", "observed commits out of order", |h| h.observed.reverse()),
        rule("commit_observed_twice", "observed commits out of order", |h| h.observed[1] = h.observed[0]),
        heads("commit_first_call_not_zero", "call numbers out of order", |h| h.call = 2),
        heads("commit_superseded_out_of_order", "superseded values out of order", |h| h.supersedes.reverse()),
        heads("commit_removal_nanoseconds_over_limit", "impossible time of a removal", |h| {
            h.kind = ChangeKind::Removal { link: LINK, child: NODE, time: Timestamp { nanos: 1_000_000_000, ..TIME } };
        }),
    ];
    check("commit", &vectors, by_format);
}

/// Headers, by what is changed in them, in the order of their hashes.
fn proof(one: fn(&mut Header), other: fn(&mut Header)) -> [ClaimedCommit; 2] {
    let mut both = [commit(changes(), one), commit(Vec::new(), other)];
    both.sort_by_key(|commit| commit_hash(&commit.header));
    both
}

fn encoded([one, other]: [ClaimedCommit; 2]) -> Vec<u8> {
    Proof::as_given((one.header, one.signature), (other.header, other.signature)).encode()
}

#[test]
fn proofs() {
    let same = |_: &mut Header| {};
    let good = || proof(same, same);
    let bytes = encoded(good());
    let apart = |name, what, f: fn(&mut Header)| Vector::refused(name, "proof", what, encoded(proof(f, |_| {})));
    let genesis = |h: &mut Header| {
        (h.volume, h.seq, h.prev, h.observed, h.count) = (VolumeId::ZERO, 1, CommitHash::ZERO, Vec::new(), 1);
    };
    let first_of = |first: ClaimedCommit| {
        let volume = VolumeId::from_bytes(*commit_hash(&first.header).as_bytes());
        let mut both = [first, commit(Vec::new(), |h| (h.volume, h.seq, h.prev) = (volume, 1, CommitHash::ZERO))];
        both.sort_by_key(|commit| commit_hash(&commit.header));
        both
    };
    let turned = {
        let [one, other] = good();
        [other, one]
    };
    let forged = {
        let [one, other] = good();
        [ClaimedCommit { signature: other.signature, ..one }, other]
    };
    let twice = {
        let [one, _] = good();
        [one.clone(), one]
    };
    let mut newer = bytes.clone();
    newer[8] = 2;
    let mut foreign = bytes.clone();
    foreign[0] = b'p';
    let inputs = "device keys generated from SeededEntropy(1)";
    let vectors = [
        Vector::ok("proof", "proof", bytes.clone()).with(inputs),
        Vector::ok("proof_of_a_volumes_beginning", "proof", encoded(first_of(commit(changes(), genesis)))).with(inputs),
        Vector::refused("proof_truncated", "proof", "not a well-formed proof", cut(&bytes)),
        Vector::refused("proof_trailing_byte", "proof", "not a well-formed proof", and(bytes, &[0])),
        Vector::refused("proof_newer_version", "proof", "version 2, this program knows 1", newer),
        Vector::refused("proof_other_magic", "proof", "no proof of p2pfs", foreign),
        Vector::refused(
            "proof_other_signature",
            "proof",
            "commit 1 is not what a device signed: signature",
            encoded(forged),
        ),
        Vector::refused("proof_out_of_order", "proof", "wrong order", encoded(turned)),
        Vector::refused("proof_of_one_commit", "proof", "both commits are the same one", encoded(twice)),
        Vector::refused("proof_of_two_beginnings", "proof", "of different volumes", encoded(proof(genesis, genesis))),
        Vector::refused(
            "proof_of_an_impossible_commit",
            "proof",
            "impossible header",
            encoded(proof(|h| h.seq = 0, |_| {})),
        ),
        apart("proof_of_two_volumes", "of different volumes", |h| h.volume = VolumeId::from_bytes([2; 32])),
        apart("proof_of_two_logs", "of different logs", |h| h.log = 1),
        apart("proof_of_two_numbers", "of different numbers", |h| h.seq = 3),
        Vector::refused("proof_of_two_devices", "proof", "of different devices", encoded(two_devices())),
    ];
    check("proof", &vectors, by_format);
}

/// Commits of one number by two devices.
fn two_devices() -> [ClaimedCommit; 2] {
    let other = DeviceKeys::generate(&SeededEntropy::new(3));
    let mut theirs = commit(changes(), |_| {});
    let mut header: Header = crate::commit::decode("header", &theirs.header).expect("it was just encoded");
    header.device = other.id();
    theirs.header = encode(&header);
    theirs.signature = other.signing.sign(Label::CommitSignature, &theirs.header);
    let mut both = [theirs, commit(changes(), |_| {})];
    both.sort_by_key(|commit| commit_hash(&commit.header));
    both
}

#[test]
fn heads() {
    let (user, device) = (user(), device());
    let certificate =
        user.signing.as_ref().expect("whole keys").sign(Label::DeviceCertificate, &encode(&device.public()));
    let ticket = PublicKey::from_bytes([0xCC; 32]);
    let ok = |name, kind| Vector::ok(name, "head", encode(&head(kind)));
    let next_device = |proof| ChangeKind::Device {
        ticket,
        user: user.id(),
        device: device.public(),
        certificate,
        user_key: vec![8; 84],
        proof,
    };
    let settled = encode(&head(ChangeKind::Settle { node: NODE }));
    let mut short_id = settled.clone();
    // array of 3, call 0, map of one pair, "s", array of one, bin 8 of 16.
    assert_eq!(short_id[..8], [0x93, 0, 0x81, 0xa1, b's', 0x91, 0xc4, 16]);
    short_id[7] = 15;
    short_id.remove(8);
    let mut unknown = settled.clone();
    unknown[4] = b'z';
    let vectors = [
        ok("head_birth", ChangeKind::Birth { kind: NodeKind::Directory, access: access_head() }),
        ok("head_access", ChangeKind::Access { node: NODE, access: access_head() }),
        ok("head_meta", ChangeKind::Meta { node: NODE, generation: 1 }),
        ok("head_xattr", ChangeKind::Xattr { node: NODE, generation: 1, tag: NodeId::from_bytes([7; 16]) }),
        ok("head_content", ChangeKind::Content { node: NODE, generation: 1, root: ROOT, blocks: 3 }),
        ok("head_settle", ChangeKind::Settle { node: NODE }),
        ok("head_place", ChangeKind::Place { link: Some(LINK), child: NODE, parent: NODE, generation: 1 }),
        ok("head_removal", ChangeKind::Removal { link: LINK, child: NODE, time: TIME }),
        ok(
            "head_genesis",
            ChangeKind::Genesis { user: user.public(), device: device.public(), certificate, user_key: vec![8; 80] },
        ),
        ok(
            "head_epoch",
            ChangeKind::Epoch {
                realm: RealmId::MEMBERS,
                epoch: EPOCH,
                previous: None,
                sealed: vec![sealed_key()],
                carried: Vec::new(),
            },
        ),
        ok("head_invitation", ChangeKind::Invite { ticket, role: Role::Writer, expires: TIME }),
        ok(
            "head_admission",
            ChangeKind::Grant {
                ticket,
                role: Role::Reader,
                user: user.public(),
                device: device.public(),
                certificate,
                sealed: vec![sealed_key()],
                user_key: vec![8; 80],
            },
        ),
        ok("head_name", ChangeKind::Name {}),
        ok("head_setting", ChangeKind::Setting { epoch: EPOCH, tag: NodeId::from_bytes([7; 16]) }),
        ok("head_snapshot", ChangeKind::Snapshot { epoch: EPOCH }),
        ok("head_snapshot_removed", ChangeKind::Drop {}),
        ok("head_audit_head", ChangeKind::AuditHead { count: 300, hash: Hash::from_bytes([6; 32]) }),
        ok("head_device_invitation", ChangeKind::InviteDevice { ticket, expires: Some(TIME) }),
        ok("head_exported_key", ChangeKind::InviteDevice { ticket, expires: None }),
        ok("head_device", next_device(None)),
        ok("head_device_of_an_exported_key", next_device(Some(certificate))),
        ok(
            "head_user_key",
            ChangeKind::UserKey {
                user: user.public(),
                certificate,
                sealed: vec![DeviceBox { device: device.id(), sealed: vec![8; 80] }],
            },
        ),
        ok("head_withdrawal", ChangeKind::Withdraw { ticket }),
        ok("head_role", ChangeKind::Standing { user: user.public().id(), role: Some(Role::Reader) }),
        ok("head_user_removed", ChangeKind::Standing { user: user.public().id(), role: None }),
        ok("head_device_removed", ChangeKind::Expel { device: device.public().id }),
        ok("head_keys", ChangeKind::Keys { sealed: vec![sealed_key()] }),
        ok("head_discovery_keys", ChangeKind::Watch { sealed: vec![sealed_key()] }),
        Vector::refused("head_unknown_kind", "head", NO_VALUE, unknown),
        Vector::refused("head_short_id", "head", NO_VALUE, short_id),
        Vector::refused("head_truncated", "head", NO_VALUE, cut(&settled)),
        Vector::refused("head_trailing_byte", "head", NO_VALUE, and(settled, &[0xc0])),
    ];
    check("head", &vectors, by_format);
}

#[test]
fn bodies() {
    let access =
        AccessBody { time: TIME, mode: 0o644, uid: 1000, gid: 7, acl: vec![2, 0, 0, 0], default_acl: Vec::new() };
    let content = |size, allocated, data| {
        encode(&ContentBody { mtime: TIME, content: Content { size, allocated, data }, keys: vec![KEY] })
    };
    let (inline, tree) =
        (|bytes: &[u8]| ContentData::Inline(bytes.to_vec()), |blocks| ContentData::Tree { root: ROOT, blocks });
    let place = encode(&PlaceBody { time: TIME, name: b"notes.txt".to_vec() });
    let setting =
        |value: Option<&str>| SettingBody { name: "history.daily".to_owned(), value: value.map(ToOwned::to_owned) };
    let disagree = "whose size, blocks and bytes disagree";
    let refused =
        |name, size, allocated, data| Vector::refused(name, "body_content", disagree, content(size, allocated, data));
    let vectors = [
        Vector::ok(
            "body_birth",
            "body_birth",
            encode(&BirthBody { access: access.clone(), rdev: 0, target: b"there".to_vec() }),
        ),
        Vector::ok("body_access", "body_access", encode(&access)),
        Vector::ok("body_meta", "body_meta", encode(&MetaBody { time: TIME, mtime: None, atime: TIME })),
        Vector::ok(
            "body_xattr",
            "body_xattr",
            encode(&XattrBody { time: TIME, name: b"user.a".to_vec(), value: Some(b"b".to_vec().into()) }),
        ),
        Vector::ok(
            "body_xattr_removed",
            "body_xattr",
            encode(&XattrBody { time: TIME, name: b"user.a".to_vec(), value: None }),
        ),
        Vector::ok("body_content_inline", "body_content", content(2, 2, inline(b"hi"))),
        Vector::ok("body_content_tree", "body_content", content(70_000, 4464, tree(2))),
        Vector::ok("body_place", "body_place", place.clone()),
        Vector::ok("body_member", "body_member", encode(&MemberBody { name: "ada".to_owned() })),
        Vector::ok("body_setting", "body_setting", encode(&setting(Some("30d")))),
        Vector::ok("body_setting_to_default", "body_setting", encode(&setting(None))),
        Vector::ok("body_snapshot", "body_snapshot", encode(&SnapshotBody { name: "release".to_owned() })),
        refused("body_content_inline_size", 3, 3, inline(b"hi")),
        refused("body_content_inline_over_limit", 16_385, 16_385, inline(&[0; 16_385])),
        refused("body_content_small_tree", 4096, 4096, tree(1)),
        refused("body_content_other_blocks", 70_000, 70_000, tree(3)),
        refused("body_content_allocated_over_size", 70_000, 131_072, tree(2)),
        refused("body_content_part_of_a_block_allocated", 70_000, 4463, tree(2)),
        refused("body_content_nothing_allocated_under_a_root", 70_000, 0, tree(2)),
        refused("body_content_over_longest", (1 << 46) + 1, 65_536, tree((1 << 30) + 1)),
        Vector::refused("body_trailing_byte", "body_place", NO_VALUE, and(place, &[0])),
        Vector::refused("body_member_not_text", "body_member", NO_VALUE, vec![0x91, 0xa1, 0xff]),
    ];
    check("body", &vectors, by_format);
}

#[test]
fn letters() {
    let (volume, to) = (VolumeId::from_bytes([1; 32]), user().id());
    let letter =
        |number, to| letters::fuzzing::letter(&volume, &device(), (number, to, TIME), &user().public(), "hello");
    let to_one = letter(1_795_338_900_000_000, Some(to));
    let inputs = "volume 0101…, device keys from SeededEntropy(1), user keys from SeededEntropy(2), the rest from SeededEntropy(7); the text is \"hello\"";
    let refused = |name, bytes| Vector::refused(name, "letter", "not a well-formed message", bytes);
    let vectors = [
        Vector::ok("letter_to_one", "letter", to_one.clone()).with(inputs),
        Vector::ok("letter_to_all", "letter", letter(7, None)).with(inputs),
        Vector::ok("letter_got", "letter", letters::fuzzing::got(1_795_338_900_000_000)),
        refused("letter_empty", Vec::new()),
        refused("letter_unknown", vec![0x81, 0xa1, b'z', 1]),
        refused("letter_truncated", cut(&to_one)),
        refused("letter_trailing_byte", and(to_one, &[0])),
        refused("letter_long_integer", [&[0x81, 0xa3][..], b"Got", &[0xcc, 7]].concat()),
    ];
    check("letter", &vectors, by_format);
}

#[test]
fn messages() {
    let message = |name, message: Message| Vector::ok(name, "message", message.encode());
    let refused = |name, bytes| Vector::refused(name, "message", "not a well-formed message", bytes);
    let tip = Tip { device: device().id(), log: 0, seq: 300, hash: COMMIT };
    let state = Message::State { digest: Hash::from_bytes([1; 32]), complete: true, commits: 70_000 };
    let vectors = [
        message("message_state", state.clone()),
        message("message_tips", Message::Tips(vec![tip])),
        message("message_commits", Message::Commits(vec![commit(changes(), |_| {})])),
        message("message_want", Message::Want(COMMIT)),
        message("message_flush", Message::Flush(7)),
        message("message_flushed", Message::Flushed(7)),
        refused("message_empty", Vec::new()),
        refused("message_unknown", vec![0x81, 0xa1, b'z', 1]),
        refused("message_truncated", cut(&state.encode())),
        refused("message_trailing_byte", and(state.encode(), &[0])),
        refused("message_list_longer_than_message", vec![0x81, 0xa1, b't', 0xdd, 0xff, 0xff, 0xff, 0xff]),
        refused("message_long_integer", vec![0x81, 0xa1, b'f', 0xcc, 7]),
    ];
    check("message", &vectors, by_format);
}

#[test]
fn list_nodes() {
    let node = |children: &[u8]| children.iter().flat_map(|n| [*n; 32]).collect::<Vec<u8>>();
    let vectors = [
        Vector::ok("list_node_of_two", "list_node", node(&[1, 2])),
        Vector::ok("list_node_with_hole", "list_node", node(&[0, 2])),
        Vector::refused("list_node_of_holes", "list_node", "without data", node(&[0, 0])),
        Vector::refused("list_node_truncated", "list_node", "in a place of 1 children", cut(&node(&[1, 2]))),
        Vector::refused("list_node_empty", "list_node", "in a place of 1 children", Vec::new()),
        Vector::refused("list_node_over_limit", "list_node", "in a place of 128 children", node(&[1; 129])),
    ];
    check("list_node", &vectors, by_format);
}

fn store() -> SealedStore {
    SealedStore::new(Arc::new(MemoryStore::new()), &KEY, Arc::new(SeededEntropy::new(3)))
}

/// Opens a pack as after a crash, and writes what is in it anew.
fn recode_pack(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = "00000000.pack";
    // A store that knows of the pack, and of a content that may need its blocks: else what is damaged would be passed
    // over and not be cut off.
    let store_of_old = store();
    let mut batch = Batch::new();
    store_of_old.put(&mut batch, Space::Meta, b"undo/", b"");
    store_of_old.apply(batch).unwrap();
    let (hash, block) = pack_blocks().remove(0);
    Packs::open(old.path(), &store_of_old).unwrap().put(&hash, &block).unwrap();
    fs::write(old.path().join(name), bytes).unwrap();
    let packs = Packs::open(old.path(), &store_of_old).map_err(|e| e.to_string())?;
    match packs.recovery() {
        found if found.cut > 0 => {
            return Err(format!("{} blocks are whole, {} bytes cut off", found.checked, found.cut));
        }
        found => assert_eq!(found.checked, 3),
    }
    let again = Packs::open(new.path(), &store()).map_err(|e| e.to_string())?;
    for (hash, _) in pack_blocks() {
        let block = packs.get(&hash).unwrap().unwrap();
        again.put(&hash, &block).unwrap();
    }
    again.close().unwrap();
    Ok(fs::read(new.path().join(name)).unwrap())
}

fn pack_blocks() -> Vec<(BlockHash, Vec<u8>)> {
    let node = vec![8; 64];
    let block = |bytes: &[u8]| (BlockHash::of_block(bytes), bytes.to_vec());
    vec![block(b"a block"), (BlockHash::of_list(&node), node), block(&[3; 100])]
}

#[test]
fn packs() {
    let folder = tempfile::tempdir().unwrap();
    let packs = Packs::open(folder.path(), &store()).unwrap();
    for (hash, block) in pack_blocks() {
        packs.put(&hash, &block).unwrap();
    }
    packs.close().unwrap();
    let pack = fs::read(folder.path().join("00000000.pack")).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut pack = pack.clone();
        pack[at] = byte;
        pack
    };
    let refused = |name, why, bytes| Vector::refused(name, "pack", why, bytes);
    let place = Vector::ok("block_row", "block_row", [&[0; 12][..], &[40, 0, 0, 0], &[9; 24]].concat());
    let row_of = |len: [u8; 4]| [&[0; 12][..], &len, &[9; 24]].concat();
    let vectors = [
        Vector::ok("pack", "pack", pack.clone()),
        refused("pack_newer_version", "format version 2, known are up to 1", changed(8, 2)),
        refused("pack_other_number", "0 blocks are whole, 307 bytes cut off", changed(12, 1)),
        refused("pack_truncated_record", "2 blocks are whole, 139 bytes cut off", cut(&pack)),
        refused("pack_truncated_header", "0 blocks are whole, 15 bytes cut off", pack[..15].to_vec()),
        refused("pack_changed_block", "0 blocks are whole, 291 bytes cut off", changed(60, 0)),
        refused("pack_record_length_zero", "0 blocks are whole, 291 bytes cut off", changed(20, 0)),
        refused("pack_record_length_over_limit", "0 blocks are whole, 291 bytes cut off", changed(23, 1)),
        refused("pack_zeros_at_end", "3 blocks are whole, 50 bytes cut off", and(pack.clone(), &[0; 50])),
        place,
        Vector::refused("block_row_length_zero", "block_row", "an index row of the packs", row_of([0; 4])),
        Vector::refused(
            "block_row_length_over_limit",
            "block_row",
            "an index row of the packs",
            row_of([0x99, 0, 1, 0]),
        ),
        Vector::refused("block_row_truncated", "block_row", "an index row of the packs", cut(&row_of([40, 0, 0, 0]))),
        Vector::ok("synced_point", "row_synced_point", [&[3, 0, 0, 0, 2, 0, 0, 0][..], &[9; 8], &[1]].concat()),
        Vector::refused("synced_point_neither_open_nor_closed", "row_synced_point", "damaged", vec![2; 17]),
    ];
    check("pack", &vectors, |vector, bytes| match vector.format {
        "pack" => recode_pack(bytes),
        other => recode(other, bytes),
    });
}

#[test]
fn archives() {
    let commits = [commit(changes(), |_| {}), commit(Vec::new(), |header| header.seq = 3)];
    let records = [(1, encode(&commits[0])), (3, encode(&commits[1]))];
    let segment = fuzzing::archive_segment(&records);
    let second = fuzzing::archive_segment(&records[..1]).len();
    let changed = |at: usize, byte: u8| {
        let mut segment = segment.clone();
        segment[at] = byte;
        segment
    };
    let refused = |name, why, bytes| Vector::refused(name, "archive", why, bytes);
    let one = "1 records are whole";
    let moved = [&segment[..24], &segment[second..], &segment[24..second]].concat();
    let vectors = [
        Vector::ok("archive", "archive", segment.clone()),
        Vector::ok("archive_without_commits", "archive", segment[..24].to_vec()),
        refused("archive_newer_version", "2 records are whole, 24 bytes are not", changed(8, 2)),
        refused("archive_of_another_run", "2 records are whole, 24 bytes are not", changed(12, 1)),
        refused("archive_of_other_commits", "2 records are whole, 24 bytes are not", changed(16, 2)),
        refused("archive_truncated_header", "0 records are whole, 23 bytes are not", segment[..23].to_vec()),
        refused("archive_truncated_record", one, cut(&segment)),
        refused("archive_changed_commit", one, changed(60, segment[60] ^ 1)),
        refused("archive_other_arrival", one, changed(32, 2)),
        refused("archive_record_length_zero", one, changed(28, 0)),
        refused("archive_record_length_over_limit", one, changed(31, 1)),
        refused("archive_hole", one, [&segment[..24], &[0; 100], &segment[second..]].concat()),
        refused("archive_zeros_at_end", "2 records are whole, 50 bytes are not", and(segment.clone(), &[0; 50])),
        refused("archive_records_exchanged", "the records are out of order", moved),
    ];
    let vectors = vectors.map(|v| v.with("secret 66 x 32, run 7, first 1, records 1 and 3; random bytes of seed 5"));
    check("archive", &vectors, by_format);
}

#[test]
fn drafts() {
    let base = Content { size: 2, allocated: 2, data: ContentData::Inline(b"hi".to_vec()) };
    let bytes = |bytes: &[u8]| serde_bytes::ByteBuf::from(bytes.to_vec());
    let header = encode(&(vec![AT], TIME));
    let first = |base: &Content| encode(&(base, vec![KEY], bytes(&header)));
    // One change each: written, cut, punched.
    let changes = [
        &[0x93, 0x81, 0xa5][..],
        b"Write",
        &[0x92, 10, 0xc4, 2, 1, 2, 0x81, 0xa8],
        b"Truncate",
        &[5, 0x81, 0xa5],
        b"Punch",
        &[0x92, 1, 2],
    ]
    .concat();
    let wrong = Content { size: 3, ..base.clone() };
    let vectors = [
        Vector::ok("draft_first_row", "draft_head", first(&base)),
        Vector::ok("draft_changes", "draft_changes", changes.clone()),
        Vector::ok("draft_header", "draft_header", header.clone()),
        Vector::refused("draft_base_size", "draft_head", "whose size, blocks and bytes disagree", first(&wrong)),
        Vector::refused("draft_truncated", "draft_head", "a draft's row", cut(&first(&base))),
        Vector::refused("draft_trailing_byte", "draft_changes", "a draft's row", and(changes, &[0])),
        Vector::refused("draft_unknown_change", "draft_changes", "a draft's row", vec![0x91, 0x81, 0xa1, b'X', 1]),
    ];
    check("draft", &vectors, by_format);
}

fn node() -> Node {
    let name = b"notes.txt".to_vec();
    let place = Place::In { parent: Ino::ROOT, name: name.clone() };
    let shown = Shown { parent: Ino::ROOT, name, at: AT, count: 4 };
    fn value<T>(value: T) -> Vec<Value<T>> {
        vec![Value { at: AT, count: 4, value: Some(value) }]
    }
    Node {
        id: NODE,
        kind: NodeKind::File,
        rdev: 0,
        target: Vec::new(),
        born: vec![AT],
        owner: UserId::from_bytes([0x77; 32]),
        btime: TIME,
        keys: vec![(1, KEY.into())],
        access: value(Access {
            owner: UserId::from_bytes([0x77; 32]),
            realm: RealmId::MEMBERS,
            grants: Vec::new(),
            judged_mode: 0o660,
            generation: 1,
            mode: 0o644,
            uid: 0,
            gid: 0,
            acl: Vec::new().into(),
            default_acl: Vec::new().into(),
            opened: crate::row::Opened::Yes,
        }),
        meta: value(Meta { mtime: Some(TIME), atime: TIME }),
        xattrs: vec![Arc::new(Xattr { tag: NODE, name: b"user.a".to_vec(), values: value(XattrValue::Removed) })],
        content: value(ContentValue {
            size: 70_000,
            allocated: 70_000,
            mtime: TIME,
            tree: Some((ROOT, 2)),
            generation: 1,
            keys: Vec::new(),
        }),
        links: vec![Arc::new(Link { id: LINK, values: value(place), shown: Some(shown), aside: Vec::new() })],
        ctime: TIME,
        mtime: TIME,
        entry_change: None,
        subdirs: 0,
        merged_into: None,
        merged: Vec::new(),
        hung_at: None,
        views: vec![(AT, Ino(9))],
        spilled: Spilled::default(),
        since: 5,
    }
}

#[test]
fn rows() {
    let good = commit(changes(), |_| {});
    let row = CommitRow {
        header: good.header.clone(),
        signature: good.signature,
        hash: COMMIT,
        count: 9,
        arrival: 12,
        void: false,
        vector: vec![AT.dot],
        vector_whole: false,
        shown: TIME,
        beside: None,
        beyond: 1,
    };
    let branch =
        Branch { device: device().id(), log: 0, forked_from: Some(AT.dot), tip: 0, tip_hash: CommitHash::ZERO };
    let claim = Claim { child: Ino(5), link: LINK, kind: NodeKind::File, parent: Ino::ROOT, at: AT, count: 4 };
    let entry = Entry {
        name: b"notes.txt".to_vec(),
        claims: vec![claim],
        derived: Some(Derived { ino: Ino(9), kind: NodeKind::File, base: b"notes.txt".to_vec() }),
        derives: vec![b"notes~1.txt".to_vec().into()],
        wanted_by: Vec::new(),
        since: 7,
    };
    let spilled = Spilled { links: [300, 7], placed: 300, xattrs: [2, 1], names: 14 };
    let many = Node { spilled, ..node() };
    let member = |name, row: MemberRow| Vector::ok(name, "row_member", encode(&row));
    let damaged = |name, format, bytes| Vector::refused(name, format, "damaged", bytes);
    let invitation = InviteRow {
        ticket: PublicKey::from_bytes([0xCC; 32]),
        role: Role::Admin,
        expires: TIME,
        at: AT,
        used: true,
        others: Vec::new(),
    };
    let (founder, machine) = (user().public(), device().public());
    let (user, device) = (founder.id(), machine.id);
    let set = SettingValue { user, device, name: "history.daily".to_owned(), value: None };
    let values = vec![Value { at: AT, count: 4, value: Some(set) }, Value { at: AT, count: 5, value: None }];
    let setting = SettingRow { tag: NODE, values };
    let snapshot =
        SnapshotRow { at: AT, count: 4, user, device, name: Some("release".to_owned()), dropped: Vec::new() };
    let vectors = [
        Vector::ok("row_counters", "row_counters", encode(&Counters::default())),
        Vector::ok("row_branch", "row_branch", encode(&branch)),
        Vector::ok("row_commit", "row_commit", encode(&row)),
        Vector::ok("row_change", "row_change", encode(&changes()[0])),
        Vector::ok("row_node", "row_node", encode(&NodeRow::Node(Box::new(node())))),
        Vector::ok("row_node_of_many_links", "row_node", encode(&NodeRow::Node(Box::new(many)))),
        Vector::ok("row_link", "row_link", encode(&node().links[0])),
        Vector::ok("row_xattr", "row_xattr", encode(&node().xattrs[0])),
        Vector::ok("row_view", "row_node", encode(&NodeRow::View { of: Ino(5), value: AT, since: 6 })),
        Vector::ok("row_entry", "row_entry", encode(&entry)),
        member(
            "row_user",
            MemberRow::User(UserRow {
                public: founder,
                name: "ada".to_owned(),
                role: Role::Owner,
                granted: AT,
                count: 1,
                standings: vec![StandingValue { at: AT, count: 5, role: None }],
                removed: true,
            }),
        ),
        member(
            "row_device",
            MemberRow::Device(DeviceRow {
                public: machine,
                user,
                granted: vec![AT],
                admitted: TIME,
                expelled: vec![StandingValue { at: AT, count: 5, role: None }],
                removed: true,
            }),
        ),
        member(
            "row_epoch",
            MemberRow::Epoch(EpochRow {
                id: EPOCH,
                at: AT,
                count: 1,
                key: Some(KEY.into()),
                given: vec![7],
                realm: RealmId::MEMBERS,
                by: None,
            }),
        ),
        member("row_discovery_key", MemberRow::Watch(WatchRow { epoch: EPOCH, key: Some(KEY), given: vec![7] })),
        member("row_invitation", MemberRow::Invite(invitation.clone())),
        member(
            "row_user_keys",
            MemberRow::UserKeys(UserKeysRow { user, keys: vec![UserKeyValue { public: founder, at: AT, count: 5 }] }),
        ),
        member(
            "row_device_invitation",
            MemberRow::DeviceInvite(DeviceInviteRow {
                ticket: invitation.ticket,
                invitations: vec![DeviceInvitation { user, expires: Some(TIME), at: AT }],
                used: vec![user],
            }),
        ),
        member("row_user_secret", MemberRow::Secret(SecretRow::new(&self::user().boxes, 1))),
        member(
            "row_withdrawal",
            MemberRow::Withdrawn(WithdrawnRow {
                ticket: invitation.ticket,
                by: vec![Withdrawal { user, of_users: true, of_devices: false, at: AT }],
            }),
        ),
        member(
            "row_invitation_of_two",
            MemberRow::Invite(InviteRow { others: vec![(Role::Admin, TIME, AT)], role: Role::Writer, ..invitation }),
        ),
        Vector::ok("row_setting", "row_setting", encode(&setting)),
        Vector::ok("row_snapshot", "row_snapshot", encode(&snapshot)),
        damaged("row_snapshot_truncated", "row_snapshot", cut(&encode(&snapshot))),
        Vector::ok("row_wanted", "row_wanted", encode(&(ROOT, 2u64))),
        damaged("row_link_truncated", "row_link", cut(&encode(&node().links[0]))),
        damaged("row_commit_truncated", "row_commit", cut(&encode(&row))),
        damaged("row_branch_short_device", "row_branch", encode(&(serde_bytes::Bytes::new(&[1; 31]), 0, ()))),
        damaged("row_node_unknown_kind", "row_node", vec![0x81, 0xa1, b'z', 0x90]),
        damaged("row_counters_empty", "row_counters", Vec::new()),
    ];
    check("row", &vectors, by_format);
}

#[test]
fn access_lists() {
    let list = |entries: &[(u16, u16, u32)]| {
        let entry = |(tag, bits, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [2u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    };
    let none = u32::MAX;
    let (user, group, other) = ((1, 6, none), (4, 4, none), (0x20, 0, none));
    let refused = |name, bytes| Vector::refused(name, "acl", "invalid argument", bytes);
    let mut version = list(&[user, group, other]);
    version[0] = 1;
    let vectors = [
        Vector::ok("acl_minimal", "acl", list(&[user, group, other])),
        Vector::ok("acl_with_named_user", "acl", list(&[user, (2, 6, 7), group, (0x10, 6, none), other])),
        refused("acl_version_1", version),
        refused("acl_truncated", cut(&list(&[user, group, other]))),
        refused("acl_without_other", list(&[user, group])),
        refused("acl_named_user_without_mask", list(&[user, (2, 6, 7), group, other])),
        refused("acl_user_twice", list(&[user, user, group, other])),
        refused("acl_named_user_twice", list(&[user, (2, 6, 7), (2, 4, 7), group, (0x10, 6, none), other])),
        refused("acl_unknown_tag", list(&[user, group, other, (0x40, 0, none)])),
        refused("acl_unknown_bit", list(&[(1, 8, none), group, other])),
    ];
    check("acl", &vectors, by_format);
}
