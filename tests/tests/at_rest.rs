//! Nothing readable on any disk or wire: distinctive names, contents, link targets and attributes are looked for in
//! every byte that members keep, that the registry keeps, and that goes between them.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc};

use data_encoding::{BASE32, BASE64, HEXLOWER, HEXUPPER};
use p2pfs_tests::{
    group::Group,
    patience::eventually,
    peer::{Peer, free_port},
    random::Random,
    scratch::Scratch,
    wire::Wire,
};

/// What is hidden, and under which name a find is reported.
const SECRETS: [&str; 9] = [
    "Xylophone-Folder-Name",
    "Quetzalcoatl-File-Name.txt",
    "Zeppelin content of a small file",
    "Narwhal content that is spread over a large file",
    "../Jabberwocky/link/target",
    "user.Bandersnatch-attribute",
    "Snark attribute value",
    "Mockturtle-Renamed",
    "Gryphon-Conflict",
];

/// Puts every secret onto the mount, renames and deletes some of it: what was is kept as well.
fn hide(peer: &Peer) {
    let [folder, file, small, large, target, attribute, value, renamed, temporary] = SECRETS;
    fs::create_dir(peer.at(folder)).unwrap();
    fs::write(peer.at(folder).join(file), small).unwrap();
    fs::write(peer.at("large"), large.repeat(20_000)).unwrap();
    symlink(target, peer.at("link")).unwrap();
    xattr::set(peer.at("large"), attribute, value.as_bytes()).unwrap();
    fs::write(peer.at(renamed), "").unwrap();
    fs::rename(peer.at(renamed), peer.at("other")).unwrap();
    fs::write(peer.at(temporary), temporary).unwrap();
    fs::remove_file(peer.at(temporary)).unwrap();
    // Labels and names of users are nobody else's business either, but those in the volume see them.
}

/// Every way in which a careless program might write a secret.
fn forms(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let wide = |order: fn(u16) -> [u8; 2]| secret.encode_utf16().flat_map(order).collect();
    // The middle of what encodes the secret at each offset in its surroundings.
    let base64 = (0..3_usize).map(|shift| {
        let padded = [&b"___"[..shift], bytes].concat();
        let encoded = BASE64.encode(&padded);
        ("base64", encoded.as_bytes()[4..encoded.len() - 4].to_vec())
    });
    let base32 = (0..5_usize).map(|shift| {
        let padded = [&b"_____"[..shift], bytes].concat();
        let encoded = BASE32.encode(&padded);
        ("base32", encoded.as_bytes()[8..encoded.len() - 8].to_vec())
    });
    let mut forms = vec![
        ("plain", bytes.to_vec()),
        ("lower case", secret.to_lowercase().into_bytes()),
        ("UTF-16 little", wide(u16::to_le_bytes)),
        ("UTF-16 big", wide(u16::to_be_bytes)),
        ("hex", HEXLOWER.encode(bytes).into_bytes()),
        ("HEX", HEXUPPER.encode(bytes).into_bytes()),
        ("reversed", bytes.iter().rev().copied().collect()),
    ];
    forms.extend(base64);
    forms.extend(base32);
    forms
}

/// Where a secret shows in `bytes`.
fn found(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for secret in SECRETS {
        for (form, needle) in forms(secret) {
            if contains(bytes, &needle) {
                found.push(format!("{secret:?}, {form}"));
            }
        }
    }
    found
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| b == first) {
        from += at + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// Looks into every file below `folder`, and at every name. How many bytes there were.
fn search(folder: &Path) -> u64 {
    let mut total = 0;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        assert_eq!(found(path.as_os_str().as_encoded_bytes()), [""; 0], "in the name {}", path.display());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            total += search(&path);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            assert_eq!(found(&bytes), [""; 0], "in {}", path.display());
            total += bytes.len() as u64;
        }
    }
    total
}

/// What all these searches stand on.
#[test]
fn a_secret_would_be_found_in_any_form() {
    let mut noise = Random::new(1).bytes(10_000);
    assert!(found(&noise).is_empty());
    for secret in SECRETS {
        for (form, bytes) in forms(secret) {
            let at = 5_432;
            let before = noise[at..at + bytes.len()].to_vec();
            noise[at..at + bytes.len()].copy_from_slice(&bytes);
            assert!(!found(&noise).is_empty(), "{secret} {form}");
            noise[at..at + before.len()].copy_from_slice(&before);
        }
    }
    let scratch = Scratch::new();
    fs::write(scratch.make("sub").join("file"), [b"some ", SECRETS[2].as_bytes()].concat()).unwrap();
    std::panic::catch_unwind(|| search(scratch.path())).unwrap_err();
}

#[test]
fn no_disk_holds_anything_readable() {
    let mut group = Group::two();
    hide(group.alice());
    hide_conflict(&mut group);
    let homes = [group.alice().home().to_owned(), group.bob().home().to_owned()];
    // While they run, after they ended well, and after they were killed.
    for home in &homes {
        assert!(search(home) > 500_000, "the contents are there, sealed");
    }
    group.peers.iter_mut().for_each(Peer::unmount);
    homes.iter().for_each(|home| assert!(search(home) > 500_000));
    group.peers.iter_mut().for_each(Peer::mount);
    fs::write(group.alice().at("again"), SECRETS.join(" ").repeat(100)).unwrap();
    group.peers.iter_mut().for_each(Peer::kill9);
    homes.iter().for_each(|home| assert!(search(home) > 500_000));
    search(group.registry.state());
    for log in ["alice.log", "bob.log", "registry.log"] {
        let bytes = fs::read(group.alice().scratch().join(log)).unwrap();
        assert!(!bytes.is_empty(), "{log}");
        assert_eq!(found(&bytes), [""; 0], "{log}");
    }
}

/// A file of that name, edited apart: the conflict's name is derived from it.
fn hide_conflict(group: &mut Group) {
    let name = format!("{}.txt", SECRETS[8]);
    fs::write(group.alice().at(&name), "base").unwrap();
    group.part();
    for peer in &group.peers {
        fs::write(peer.at(&name), peer.name()).unwrap();
    }
    group.meet();
    assert_eq!(group.bob().listing("status")["conflicts"], 1);
}

#[test]
fn no_wire_carries_anything_readable() {
    const NOISE: usize = 2 << 20;
    let scratch = Arc::new(Scratch::new());
    let mut alice = Peer::new(&scratch, "alice");
    alice.init(&[]);
    alice.mount();
    let wire = Wire::to(alice.listens_at().parse().unwrap());
    let mut bob = Peer::new(&scratch, "bob");
    bob.join(&wire.through(&alice.invite()));
    // She told him where she really is: no longer.
    alice.unmount();
    alice.set_port(free_port());
    alice.mount();
    wire.lead_to(alice.listens_at().parse().unwrap());
    bob.mount();
    bob.await_connected(1);
    hide(&alice);
    let noise = Random::new(7).bytes(NOISE);
    fs::write(bob.at("noise"), &noise).unwrap();
    eventually("all has arrived", || p2pfs_tests::tree::differences(alice.root(), bob.root()));
    let heard = wire.heard();
    assert!(heard.len() > NOISE, "only {} bytes went through the wire: they found another way", heard.len());
    assert_eq!(found(&heard), [""; 0]);
}

/// Who may read the disk, but is another user of the machine.
#[test]
fn nothing_is_open_to_other_users_of_the_machine() {
    use std::os::unix::fs::PermissionsExt;
    let peer = Peer::alone();
    let mut folders = vec![peer.home().join("volumes")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let known = entry.metadata().unwrap();
            let mode = known.permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is {mode:o}", entry.path().display());
            seen += 1;
            if known.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    assert!(seen > 5, "{seen}");
}
