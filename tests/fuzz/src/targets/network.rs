//! What strangers send: handshakes, frames, registry messages, tickets, certificates.

use peer_net::fuzzing::recode;

/// What decodes must decode to the same again once it is encoded.
fn stable(format: &str, bytes: &[u8]) {
    if let Ok(once) = recode(format, bytes) {
        let twice = recode(format, &once);
        assert_eq!(twice.as_ref(), Ok(&once), "{format}: what was encoded doesn't decode to the same");
    }
}

/// The first words on a connection.
pub(crate) mod handshake {
    use std::net::SocketAddr;

    use crypto::{DeviceKeys, Entropy, SeededEntropy, UserKeys};
    use p2pfs_volume::{JoinRequest, TicketSecret};
    use peer_net::frame::encode;

    pub(crate) fn run(data: &[u8]) {
        for format in ["hello", "answer", "addresses"] {
            super::stable(format, data);
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let entropy = SeededEntropy::new(1);
        let _skipped: [u8; 4] = entropy.array();
        let (user, device) = (UserKeys::generate(&entropy), DeviceKeys::generate(&entropy));
        let request =
            JoinRequest::new(&TicketSecret::from_seed([2; 32]), "bob", &user, &device, b"exporter", &entropy)
                .expect("a request can be made");
        let tag = serde_bytes_of(&[3; 16]);
        let addresses: Vec<SocketAddr> = ["192.0.2.1:1", "[2001:db8::1]:5000"].iter().flat_map(|a| a.parse()).collect();
        vec![
            encode(&Join::Join(request)),
            [&[0x81, 0xa4][..], b"Sync", &[0x91], &tag].concat(),
            [&[0x81, 0xa7][..], b"Welcome", &tag].concat(),
            [&[0x81, 0xa7][..], b"Refused", &encode(&"the name `bob` is taken")].concat(),
            encode(&(addresses.clone(), vec![(device.id(), addresses)])),
        ]
    }

    #[derive(serde::Serialize)]
    enum Join {
        Join(JoinRequest),
    }

    fn serde_bytes_of(bytes: &[u8]) -> Vec<u8> {
        [&[0xc4, bytes.len() as u8][..], bytes].concat()
    }
}

/// Direct sends: what opens a stream, parts of lists, and the contents of a file.
pub(crate) mod send {
    use crypto::{Hash, Label};
    use peer_net::{
        frame::encode,
        sends::{
            Have, Offer, Opening, SendId, contents,
            manifest::{Entry, Kind},
        },
    };
    use serde_bytes::ByteBuf;

    pub(crate) fn run(data: &[u8]) {
        for format in ["send_opening", "send_manifest", "send_have"] {
            super::stable(format, data);
        }
        let size = data.len() as u64 / 2;
        let mut kept = 0;
        let ended = contents::rest(&mut &data[..], 0, size, contents::hasher(), |bytes| {
            kept += bytes.len() as u64;
            Ok(())
        });
        assert!(kept <= size, "more of a file was kept than it has");
        assert!(!matches!(ended, Ok(contents::Ended::Whole)) || kept == size);
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let name = |name: &[u8]| ByteBuf::from(name.to_vec());
        let id = SendId::new([1; 16]);
        let entries = vec![
            Entry { path: name(b"a"), kind: Kind::Folder },
            Entry { path: name(b"a/b"), kind: Kind::File { size: 3, executable: true } },
        ];
        let hash = Hash::of_bytes(Label::SentFile, b"abc");
        let mut sent = vec![3, 0, 0, 0, b'a', b'b', b'c'];
        contents::end(&mut sent, &hash).expect("memory can be written");
        vec![
            encode(&Opening::Offer(Offer { id, files: 1, bytes: 3, names: vec![name(b"a")] })),
            encode(&Opening::Again(id)),
            encode(&entries),
            encode(&vec![Have { entry: 1, size: 3, hash }]),
            sent,
        ]
    }
}

/// A stream cut into frames, as it arrives in pieces.
pub(crate) mod frame {
    use peer_net::frame::{FrameReader, write_frame};

    const MAX: usize = 64 << 10;

    pub(crate) fn run(data: &[u8]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O starts");
        runtime.block_on(async {
            let mut reader = FrameReader::new(data, MAX);
            let mut again = Vec::new();
            while let Ok(Some(frame)) = reader.next().await {
                assert!(frame.len() <= MAX);
                write_frame(&mut again, &frame).await.expect("memory can be written");
            }
            assert!(data.starts_with(&again), "frames are not what was in the stream");
        });
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        vec![
            b"\x03\0\0\0abc\0\0\0\0".to_vec(),
            [&(MAX as u32).to_le_bytes()[..], b"cut"].concat(),
            (MAX as u32 + 1).to_le_bytes().to_vec(),
        ]
    }
}

/// What devices and registries say to each other.
pub(crate) mod registry {
    use crypto::{DeviceId, SeededEntropy, SigningKeys};
    use peer_net::{
        frame,
        registry_protocol::{Announcement, Notice, Record, Register, Token},
    };

    pub(crate) fn run(data: &[u8]) {
        super::stable("register", data);
        super::stable("notice", data);
        if let Ok(Notice::Here(found)) = frame::decode(data) {
            for announcement in found {
                let device = announcement.device;
                if let Some(sighting) = announcement.verify() {
                    assert_eq!(sighting.device, device);
                    assert!(sighting.addresses.len() <= 17);
                }
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let keys = SigningKeys::generate(&SeededEntropy::new(1));
        let device = DeviceId::from_bytes(*keys.public().as_bytes());
        let token = Token::from_bytes([1; 32]);
        let observed = "192.0.2.2:2".parse().expect("an address");
        let record = Record::sign(&keys, token, &[observed]);
        let here = Notice::Here(vec![Announcement { device, record: record.clone(), observed }]);
        let register = Register { records: vec![record], watch: vec![token] };
        let notices = [here, Notice::Accepted { observed }, Notice::Refused("full".to_owned()), Notice::Gone { token, device }];
        notices.iter().map(frame::encode).chain([frame::encode(&register)]).collect()
    }
}

/// A word that somebody pasted; and one whose checksum holds, whatever it says.
pub(crate) mod ticket {
    use crypto::{DeviceId, Hash, Label, VolumeId};
    use data_encoding::BASE32_NOPAD;
    use p2pfs_volume::TicketSecret;
    use peer_net::{registry_address::RegistryAddress, ticket::Ticket};

    pub(crate) fn run(data: &[u8]) {
        super::stable("ticket", data);
        let sum = Hash::of(Label::TicketToken, &[b"checksum", data]);
        let word = format!("p2pfs-{}", BASE32_NOPAD.encode(&[data, &sum.as_bytes()[..4]].concat()));
        super::stable("ticket", word.as_bytes());
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let registry = RegistryAddress::new("192.0.2.1:4477".parse().expect("an address"), DeviceId::from_bytes([3; 32]));
        let ticket = || Ticket {
            volume: VolumeId::from_bytes([1; 32]),
            secret: TicketSecret::from_seed([2; 32]),
            registries: vec![registry.clone()],
            hints: vec!["192.0.2.2:5000".parse().expect("an address")],
            inviter: DeviceId::from_bytes([4; 32]),
            expires: 1_800_000_000,
            user: None,
        };
        let of_device = Ticket { user: Some(crypto::UserId::from_bytes([5; 32])), ..ticket() };
        let seeds = [ticket(), of_device].map(|ticket| {
            let word = ticket.to_word().to_string();
            let bytes = BASE32_NOPAD.decode(word[6..].to_uppercase().as_bytes()).expect("our own word");
            [word.into_bytes(), bytes[..bytes.len() - 4].to_vec()]
        });
        seeds.concat()
    }
}

/// The certificate that TLS hands over before anything else is known of a stranger.
pub(crate) mod certificate {
    pub(crate) fn run(data: &[u8]) {
        if let Some(device) = peer_net::fuzzing::device_in_certificate(data) {
            assert!(data.windows(32).any(|part| part == device.as_bytes()), "a key that isn't in the certificate");
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let keys = [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256];
        let signed = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            rcgen::CertificateParams::default().self_signed(&key).expect("a certificate").der().to_vec()
        };
        keys.into_iter().map(signed).collect()
    }
}
