//! The test vectors of what this crate writes: frames, handshakes, registry messages, tickets.

#[path = "../../tests/vectors/check.rs"]
mod check;

use std::net::SocketAddr;

use check::{Vector, check};
use crypto::{DeviceId, DeviceKeys, Label, SeededEntropy, SigningKeys, UserId, UserKeys, VolumeId};
use data_encoding::BASE32_NOPAD;
use volume::{DeviceGrant, DeviceRequest, ExportedRequest, JoinGrant, JoinRequest, TicketSecret, UserSecrets};

use crate::frame::{self, FrameReader, encode, write_frame};
use crate::fuzzing::recode;
use crate::handshake::{Addresses, Answer, Hello, Tag};
use crate::registry_address::RegistryAddress;
use crate::registry_protocol::{Announcement, Notice, Record, Register, Token};
use crate::ticket::{Ticket, checksum};

const MAX: usize = 64 << 10;
const MALFORMED: &str = "not a valid message";

fn by_format(vector: &Vector, bytes: &[u8]) -> Result<Vec<u8>, String> {
    recode(vector.format, bytes)
}

fn addresses() -> Vec<SocketAddr> {
    ["192.0.2.1:1", "[2001:db8::1]:5000"].iter().map(|text| text.parse().unwrap()).collect()
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 32])
}

fn and(mut bytes: Vec<u8>, more: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(more);
    bytes
}

fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 1].to_vec()
}

#[test]
fn frames() {
    let format = "stream of frames of at most 65536 bytes";
    let refused = |name, why, bytes| Vector::refused(name, format, why, bytes);
    let vectors = [
        Vector::ok("frames", format, b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0d".to_vec()),
        Vector::ok("frames_none", format, Vec::new()),
        refused(
            "frame_length_over_limit",
            "frame of 65537 bytes, at most 65536 allowed",
            65_537u32.to_le_bytes().to_vec(),
        ),
        refused("frame_longest_length_there_is", "frame of 4294967295 bytes", vec![0xff; 4]),
        refused("frame_truncated", "ended within a frame", b"\x03\0\0\0ab".to_vec()),
        refused("frame_truncated_length", "ended within a frame", b"\x03\0\0".to_vec()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    check("frame", &vectors, |_, bytes| {
        runtime.block_on(async {
            let (mut reader, mut again) = (FrameReader::new(bytes, MAX), Vec::new());
            while let Some(frame) = reader.next().await.map_err(|e| e.to_string())? {
                write_frame(&mut again, &frame).await.map_err(|e| e.to_string())?;
            }
            Ok(again)
        })
    });
}

#[test]
fn handshakes() {
    let (user, keys) = (UserKeys::generate(&SeededEntropy::new(1)), DeviceKeys::generate(&SeededEntropy::new(2)));
    let ticket = TicketSecret::from_seed([3; 32]);
    let request = JoinRequest::new(&ticket, "bob", &user, &keys, &[4; 32], &SeededEntropy::new(5)).unwrap();
    let inputs =
        "user, device keys from SeededEntropy(1), (2); ticket's seed 03, exporter 04; entropy SeededEntropy(5)";
    let device_request = DeviceRequest::new(&ticket, &keys, Some("bob"), &[4; 32]);
    let device_grant = DeviceGrant {
        volume: VolumeId::from_bytes([8; 32]),
        user: user.public(),
        name: "bob".to_owned(),
        certificate: user.signing.as_ref().unwrap().sign(Label::DeviceCertificate, &encode(&keys.public())),
        user_key: vec![9; 84],
        keys: Vec::new(),
    };
    let secrets = UserSecrets::from_bytes(&[7; 36]).unwrap();
    let entropy = SeededEntropy::new(5);
    let exported = ExportedRequest::new(&ticket, &user, &secrets, &keys, &entropy).unwrap();
    let tag = Tag([6; 16]);
    let sync = encode(&Hello::Sync(vec![tag, tag]));
    let here = encode(&Addresses { own: addresses(), others: vec![(device(7), addresses())] });
    let vectors = [
        Vector::ok("hello_of_a_member", "hello", sync.clone()),
        Vector::ok("hello_of_a_joiner", "hello", encode(&Hello::Join(Box::new(request)))).with(inputs),
        Vector::ok("hello_of_a_device", "hello", encode(&Hello::JoinDevice(Box::new(device_request)))).with(inputs),
        Vector::ok("hello_of_an_exported_key", "hello", encode(&Hello::Return(Box::new(exported)))).with(inputs),
        Vector::ok("answer_granted_to_a_device", "answer", encode(&Answer::GrantedDevice(Box::new(device_grant))))
            .with(inputs),
        Vector::ok("answer_welcome", "answer", encode(&Answer::Welcome(tag))),
        Vector::ok("answer_refused", "answer", encode(&Answer::Refused("the name `bob` is taken".to_owned()))),
        Vector::ok(
            "answer_granted",
            "answer",
            encode(&Answer::Granted(Box::new(JoinGrant { volume: VolumeId::from_bytes([8; 32]), keys: Vec::new() }))),
        ),
        Vector::ok("addresses", "addresses", here.clone()),
        Vector::refused("hello_unknown", "hello", MALFORMED, encode(&"Hello")),
        Vector::refused(
            "hello_short_tag",
            "hello",
            MALFORMED,
            [&[0x81, 0xa4][..], b"Sync", &[0x91, 0xc4, 2, 1, 2]].concat(),
        ),
        Vector::refused("hello_trailing_byte", "hello", "bytes after the value", and(sync, &[0])),
        Vector::refused("addresses_truncated", "addresses", MALFORMED, cut(&here)),
        Vector::refused(
            "addresses_port_over_limit",
            "addresses",
            MALFORMED,
            [&[0x92, 0x91, 0x81, 0xa2][..], b"V4", &[0x92, 0x94, 1, 2, 3, 4, 0xce, 0, 1, 0, 0, 0x90]].concat(),
        ),
    ];
    check("handshake", &vectors, by_format);
}

#[test]
fn registry_messages() {
    let keys = SigningKeys::generate(&SeededEntropy::new(1));
    let device = DeviceId::from_bytes(*keys.public().as_bytes());
    let (token, expires) = (Token::from_bytes([9; 32]), 1_795_339_500i64);
    // `Record::sign` dates what it signs itself.
    let signature = keys.sign(Label::RegistryRecord, &encode(&(token, addresses(), expires)));
    let record = Record { token, addresses: addresses(), expires, signature };
    record.verify(&device).unwrap();
    let observed = addresses()[0];
    let register = encode(&Register { records: vec![record.clone()], watch: vec![token] });
    let here = encode(&Notice::Here(vec![Announcement { device, record: record.clone(), observed }]));
    let unsigned = Record { expires: expires + 1, ..record };
    let forged = encode(&Notice::Here(vec![Announcement { device, record: unsigned, observed }]));
    let inputs = "device's keys from SeededEntropy(1)";
    let vectors = [
        Vector::ok("register", "register", register.clone()).with(inputs),
        Vector::ok("notice_here", "signed notice", here.clone()).with(inputs),
        Vector::ok("notice_accepted", "notice", encode(&Notice::Accepted { observed })),
        Vector::ok("notice_refused", "notice", encode(&Notice::Refused("full".to_owned()))),
        Vector::ok("notice_gone", "notice", encode(&Notice::Gone { token, device })),
        Vector::refused("notice_here_other_date", "signed notice", "is not signed by its device", forged).with(inputs),
        Vector::refused("notice_unknown", "notice", MALFORMED, encode(&"Nothing")),
        Vector::refused("register_truncated", "register", MALFORMED, cut(&register)),
        Vector::refused("register_trailing_byte", "register", "bytes after the value", and(register, &[0xc0])),
        Vector::refused(
            "register_list_longer_than_message",
            "register",
            MALFORMED,
            vec![0x92, 0xdd, 0xff, 0xff, 0xff, 0xff],
        ),
    ];
    check("registry", &vectors, |vector, bytes| {
        if vector.format == "signed notice" {
            let Ok(Notice::Here(found)) = frame::decode(bytes) else { return Err("no notice".to_owned()) };
            if found.iter().any(|a| a.record.verify(&a.device).is_err()) {
                return Err("a record is not signed by its device".to_owned());
            }
            return recode("notice", bytes);
        }
        recode(vector.format, bytes)
    });
}

/// A ticket's word with this content, and a checksum that holds.
fn word(content: &[u8]) -> Vec<u8> {
    format!("p2pfs-{}", BASE32_NOPAD.encode(&and(content.to_vec(), &checksum(content))).to_lowercase()).into_bytes()
}

#[test]
fn tickets() {
    let registry = RegistryAddress::new("192.0.2.1:4477".parse().unwrap(), device(3));
    let ticket = |registries: usize, hints: Vec<SocketAddr>| Ticket {
        volume: VolumeId::from_bytes([1; 32]),
        secret: TicketSecret::from_seed([2; 32]),
        registries: vec![registry.clone(); registries],
        hints,
        inviter: device(4),
        expires: 1_800_000_000,
        user: None,
    };
    let of_device = Ticket { user: Some(UserId::from_bytes([5; 32])), ..ticket(1, addresses()) };
    let good = ticket(1, addresses()).to_word().as_bytes().to_vec();
    let content = {
        let bytes = BASE32_NOPAD.decode(&good[6..].to_ascii_uppercase()).unwrap();
        bytes[..bytes.len() - 4].to_vec()
    };
    let mut wrong = good.clone();
    wrong[20] = if wrong[20] == b'a' { b'b' } else { b'a' };
    let no_registry = ticket(0, Vec::new()).to_word().as_bytes().to_vec();
    let damaged = "this ticket is damaged";
    let refused = |name, why, bytes| Vector::refused(name, "ticket", why, bytes);
    let many = encode(&(
        VolumeId::from_bytes([1; 32]),
        serde_bytes::Bytes::new(&[2; 32]),
        vec![registry.clone(); 9],
        Vec::<SocketAddr>::new(),
        device(4),
        1_800_000_000i64,
    ));
    let vectors = [
        Vector::ok("ticket", "ticket", good.clone()),
        Vector::ok("ticket_without_registry", "ticket", no_registry),
        Vector::ok("ticket_for_a_device", "ticket", of_device.to_word().as_bytes().to_vec()),
        refused("ticket_of_another_program", "this is no ticket", b"wormhole-7-crossover-clockwork".to_vec()),
        refused("ticket_over_longest_word", "this is no ticket", vec![b'p'; 8193]),
        refused("ticket_empty", damaged, b"p2pfs-".to_vec()),
        refused("ticket_truncated", damaged, cut(&good)),
        refused("ticket_wrong_checksum", damaged, wrong),
        refused("ticket_not_base32", damaged, and(good, b"0")),
        refused("ticket_newer_version", "this ticket has format 3, this program knows 2", word(&[3, 0])),
        refused("ticket_version_0", damaged, word(&and(vec![0], &content[1..]))),
        refused("ticket_trailing_byte", damaged, word(&and(content, &[0]))),
        refused("ticket_too_many_registries", damaged, word(&and(vec![1], &many))),
    ];
    check("ticket", &vectors, by_format);
}
