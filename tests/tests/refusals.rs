//! What is refused: with status 1, one clear line on standard error, and nothing half made.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::UdpSocket,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use p2pfs_tests::{
    group::Group,
    patience::eventually,
    peer::{Peer, one_refusal},
    registry::Registry,
    scratch::Scratch,
    tree::names,
};

/// Checks that nothing is below a machine's home but the folder that all volumes are in.
#[track_caller]
fn nothing_made(peer: &Peer) {
    let mut found = Vec::new();
    let mut folders = vec![peer.home().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.retain(|path| *path != peer.home().join("volumes"));
    assert!(found.is_empty(), "half made: {found:?}");
}

#[track_caller]
fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

fn join_refused(peer: &Peer, ticket: &str, name: &str) -> String {
    let line = peer.refused(["join", ticket, "--name", name, "--no-passphrase"]);
    nothing_made(peer);
    line
}

/// A member, mounted, with a registry, and somebody who wants to join.
struct Door {
    alice: Peer,
    mallory: Peer,
    _registry: Registry,
}

impl Door {
    fn new() -> Self {
        let scratch = Arc::new(Scratch::new());
        let registry = Registry::start(&scratch);
        let mut alice = Peer::new(&scratch, "alice");
        alice.init(&["--registry", registry.address()]);
        alice.mount();
        let mallory = Peer::new(&scratch, "mallory");
        Self { alice, mallory, _registry: registry }
    }
}

#[test]
fn a_ticket_works_once() {
    let door = Door::new();
    let ticket = door.alice.invite();
    let bob = Peer::new(&Arc::new(Scratch::new()), "bob");
    bob.join(&ticket);
    let line = join_refused(&door.mallory, &ticket, "mallory");
    says(&line, &["ticket", "used"]);
    assert_eq!(door.alice.listing("users").as_array().unwrap().len(), 2);
}

#[test]
fn a_ticket_lapses() {
    let door = Door::new();
    let ticket = door.alice.run(["invite", "--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(2100));
    says(&join_refused(&door.mallory, &ticket, "mallory"), &["ticket", "expired"]);
}

#[test]
fn a_mangled_ticket_is_told_as_such() {
    let door = Door::new();
    let ticket = door.alice.invite();
    let start = Instant::now();
    says(&join_refused(&door.mallory, &ticket[..ticket.len() - 5], "mallory"), &["ticket", "damaged"]);
    let middle = ticket.len() / 2;
    let other = if ticket.as_bytes()[middle] == b'a' { "b" } else { "a" };
    let changed = format!("{}{other}{}", &ticket[..middle], &ticket[middle + 1..]);
    says(&join_refused(&door.mallory, &changed, "mallory"), &["ticket", "damaged"]);
    says(&join_refused(&door.mallory, "hello", "mallory"), &["ticket"]);
    assert!(start.elapsed() < Duration::from_secs(5), "told without asking anybody");
    // And the right one still works.
    door.mallory.join(&ticket);
}

#[test]
fn a_name_is_taken_once() {
    let door = Door::new();
    let ticket = door.alice.invite();
    says(&join_refused(&door.mallory, &ticket, "alice"), &["alice", "taken"]);
    // The ticket is not lost by that.
    door.mallory.join(&ticket);
    assert_eq!(door.alice.listing("users").as_array().unwrap().len(), 2);
}

#[test]
fn nobody_home_is_told_as_such() {
    let mut door = Door::new();
    let ticket = door.alice.invite();
    door.alice.unmount();
    says(&join_refused(&door.mallory, &ticket, "mallory"), &["online"]);
    door.alice.mount();
    door.mallory.join(&ticket);
}

#[test]
fn a_second_volume_of_the_same_kind_is_refused() {
    let door = Door::new();
    door.mallory.join(&door.alice.invite());
    let again = door.alice.invite();
    let line = door.mallory.refused(["join", &again, "--name", "again", "--no-passphrase"]);
    says(&line, &["already"]);
    says(&door.mallory.refused(["init", "--name", "me", "--no-passphrase"]), &["label"]);
    assert_eq!(door.mallory.listing("volumes").as_array().unwrap().len(), 1);
}

fn passphrase(peer: &Peer, name: &str, text: &str) -> String {
    let path = peer.scratch().join(name);
    fs::write(&path, text).unwrap();
    path.into_os_string().into_string().unwrap()
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    let right = passphrase(&peer, "right", "horse battery\n");
    let wrong = passphrase(&peer, "wrong", "battery horse\n");
    peer.run(["init", "--name", "alice", "--passphrase-file", &right]);
    let root = peer.root().to_str().unwrap();
    for more in [&["--foreground"][..], &[]] {
        let line = peer.refused(["mount", root, "--passphrase-file", &wrong].iter().chain(more));
        says(&line, &["passphrase"]);
    }
    says(&peer.refused(["invite", "--passphrase-file", &wrong]), &["passphrase"]);
    // Without any, and no terminal to ask on.
    says(&peer.refused(["mount", root]), &["passphrase", "--passphrase-file"]);
    says(&peer.refused(["mount", root, "--passphrase-file", "/nonexistent/file"]), &["/nonexistent/file"]);
    assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 0, "nothing is mounted");
    // The right one still does.
    peer.run(["mount", root, "--passphrase-file", &right]);
    fs::write(peer.at("f"), "content").unwrap();
    peer.run(["unmount", root]);
}

#[test]
fn making_keys_needs_a_passphrase_or_a_word_that_there_is_none() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    says(&peer.refused(["init", "--name", "alice"]), &["--passphrase-file", "--no-passphrase"]);
    let empty = passphrase(&peer, "empty", "\n");
    says(&peer.refused(["init", "--name", "alice", "--passphrase-file", &empty]), &["empty"]);
    nothing_made(&peer);
}

#[test]
fn wrong_usage_is_status_2() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    let check = |arguments: &[&str]| {
        let done = peer.command(arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{arguments:?}");
    };
    check(&[]);
    check(&["frobnicate"]);
    check(&["init"]);
    check(&["init", "--name", "Not A Name", "--no-passphrase"]);
    check(&["init", "--name", "alice", "--no-passphrase", "--registry", "nowhere"]);
    check(&["invite", "--role", "king"]);
    check(&["invite", "--expires", "soon"]);
    check(&["wait", "--timeout", "-1"]);
    check(&["mount", "--listen", "here"]);
    nothing_made(&peer);
}

fn mount_refused(peer: &Peer, at: &Path) -> String {
    let in_front = [OsStr::new("mount"), OsStr::new("--foreground"), at.as_os_str()];
    let behind = [OsStr::new("mount"), at.as_os_str()];
    let line = peer.refused(in_front);
    assert_eq!(peer.refused(behind), line, "the same in the background");
    line
}

#[test]
fn a_mount_point_must_be_an_empty_folder() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    let shown = |path: &Path| path.display().to_string();
    let missing = peer.scratch().join("missing");
    says(&mount_refused(&peer, &missing), &["not there", &shown(&missing)]);
    assert!(!missing.exists(), "not made by the way");
    let file = peer.scratch().join("file");
    fs::write(&file, "content").unwrap();
    says(&mount_refused(&peer, &file), &["not a directory", &shown(&file)]);
    let full = peer.scratch().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("f"), "content").unwrap();
    says(&mount_refused(&peer, &full), &["not empty", &shown(&full)]);
    assert_eq!(fs::read(full.join("f")).unwrap(), b"content");
    assert_eq!(fs::read(&file).unwrap(), b"content");
}

#[test]
fn a_mount_needs_a_volume() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    let line = mount_refused(&peer, peer.root());
    says(&line, &["p2pfs init"]);
    for what in ["status", "peers", "users", "devices", "invite", "wait", "unmount"] {
        peer.refused([what]);
    }
    assert_eq!(peer.listing("volumes").as_array().unwrap().len(), 0);
    nothing_made(&peer);
}

#[test]
fn of_several_volumes_one_must_be_named() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&["--volume", "docs"]);
    peer.init(&["--volume", "music"]);
    says(&mount_refused(&peer, peer.root()), &["--volume"]);
    says(&peer.refused(["status", "--volume", "films"]), &["films"]);
    assert_eq!(peer.listing("volumes").as_array().unwrap().len(), 2);
    peer.run(["status", "--volume", "music"]);
}

#[test]
fn a_port_in_use_is_told_as_such() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let root = peer.root().to_str().unwrap();
    for more in [&["--foreground"][..], &[]] {
        let line = peer.refused(["mount", root, "--listen", &address].iter().chain(more));
        says(&line, &[&address, "in use"]);
    }
    assert_eq!(fs::read_dir(peer.root()).unwrap().count(), 0, "nothing is mounted");
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    let peer = Peer::alone();
    let other = peer.scratch().join("other");
    fs::create_dir(&other).unwrap();
    let pid = peer.pid().to_string();
    says(&mount_refused(&peer, &other), &["already mounted", peer.root().to_str().unwrap(), &pid]);
    says(&mount_refused(&peer, peer.root()), &["already mounted"]);
    // The first has not noticed.
    fs::write(peer.at("f"), "content").unwrap();
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"content");
}

#[test]
fn another_volume_does_not_cover_a_mount() {
    let peer = Peer::alone();
    let other = Peer::new(&Arc::new(Scratch::new()), "bob");
    other.init(&[]);
    says(&mount_refused(&other, peer.root()), &["mounted"]);
    fs::write(peer.at("f"), "content").unwrap();
}

#[test]
fn a_registry_that_is_down_is_a_warning() {
    let scratch = Arc::new(Scratch::new());
    let mut registry = Registry::start(&scratch);
    let mut peer = Peer::new(&scratch, "alice");
    peer.init(&["--registry", registry.address()]);
    registry.stop();
    let done = peer.command([OsStr::new("mount"), peer.root().as_os_str()]).output().unwrap();
    assert!(done.status.success());
    let warning = String::from_utf8(done.stderr).unwrap();
    assert_eq!(warning.lines().count(), 1, "{warning}");
    says(&warning, &["warning", "registry"]);
    fs::write(peer.at("f"), "content").unwrap();
    assert_eq!(fs::read(peer.at("f")).unwrap(), b"content");
    // It is found once it is there.
    registry.go_on();
    eventually("the registry is connected", || match &peer.listing("status")["registries"][0]["state"] {
        state if state == "connected" => Ok(()),
        state => Err(state.to_string()),
    });
    peer.run([OsStr::new("unmount"), peer.root().as_os_str()]);
    peer.mount();
    assert_eq!(names(peer.root()), ["f"]);
}

#[test]
fn a_volume_of_a_newer_program_is_left_alone() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    let volume = fs::read_dir(peer.home().join("volumes")).unwrap().next().unwrap().unwrap().path();
    let mark = volume.join("format");
    assert_eq!(fs::read_to_string(&mark).unwrap(), "1\n");
    let both =
        |text: &str| ["format", "format.copy"].iter().for_each(|name| fs::write(volume.join(name), text).unwrap());
    both("7\n");
    says(&mount_refused(&peer, peer.root()), &["version 7", "version 1", "newer p2pfs"]);
    for what in ["status", "users", "invite"] {
        says(&peer.refused([what]), &["version 7", "version 1"]);
    }
    both("1\n");
    peer.run(["status"]);
}

#[test]
fn a_damaged_volume_is_told_as_such() {
    let peer = Peer::new(&Arc::new(Scratch::new()), "alice");
    peer.init(&[]);
    let volume = fs::read_dir(peer.home().join("volumes")).unwrap().next().unwrap().unwrap().path();
    for name in ["keys", "unlock.key", "format"] {
        let whole = fs::read(volume.join(name)).unwrap();
        let copies = [volume.join(name), volume.join(format!("{name}.copy"))];
        let both = |bytes: &[u8]| copies.iter().for_each(|copy| fs::write(copy, bytes).unwrap());
        let mut broken = whole.clone();
        broken[0] ^= 0x40;
        for bytes in [&broken[..], &whole[..whole.len() / 3], b""] {
            both(bytes);
            mount_refused(&peer, peer.root());
            // One whole copy is enough, and the other is mended.
            for (hurt, copy) in copies.iter().zip(copies.iter().rev()) {
                both(&whole);
                fs::write(hurt, bytes).unwrap();
                peer.run(["status"]);
                assert!(fs::read(hurt).unwrap() == whole && fs::read(copy).unwrap() == whole, "{name}");
            }
        }
        copies.iter().for_each(|copy| fs::remove_file(copy).unwrap());
        mount_refused(&peer, peer.root());
        fs::write(&copies[1], &whole).unwrap();
        peer.run(["status"]);
        assert!(fs::read(&copies[0]).unwrap() == whole, "{name}");
    }
    peer.run(["status"]);
}

#[test]
fn waiting_alone_ends_when_the_time_is_up() {
    let peer = Peer::alone();
    says(&peer.refused(["wait"]), &["only device", "p2pfs invite"]);
    let mut group = Group::two();
    group.peers[1].unmount();
    let start = Instant::now();
    says(&group.alice().refused(["wait", "--timeout", "1s"]), &["no peer"]);
    assert!((1..5).contains(&start.elapsed().as_secs()));
}

#[test]
fn who_may_not_invite_is_told_so() {
    let group = Group::two();
    says(&group.bob().refused(["invite"]), &["invite"]);
    assert_eq!(group.alice().listing("users").as_array().unwrap().len(), 2);
}

/// A reader takes part, and changes nothing: not on the own mount, and so not on anybody's.
#[test]
fn a_reader_only_reads() {
    let mut door = Door::new();
    fs::write(door.alice.at("f"), "content").unwrap();
    fs::create_dir(door.alice.at("d")).unwrap();
    door.mallory.join(&door.alice.run(["invite", "--role", "reader"]));
    door.mallory.mount();
    let mount = |path: &str| door.mallory.at(path);
    eventually("it arrives", || match fs::read(mount("f")) {
        Ok(bytes) if bytes == b"content" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let refused = |done: std::io::Result<()>| {
        let number = done.unwrap_err().raw_os_error().unwrap();
        assert!([libc::EROFS, libc::EACCES, libc::EPERM].contains(&number), "{number}");
    };
    refused(fs::write(mount("f"), "changed"));
    refused(fs::write(mount("new"), ""));
    refused(fs::create_dir(mount("e")));
    refused(fs::rename(mount("f"), mount("g")));
    refused(fs::remove_file(mount("f")));
    refused(fs::remove_dir(mount("d")));
    refused(fs::hard_link(mount("f"), mount("g")));
    refused(xattr::set(mount("f"), "user.x", b"1"));
    refused(fs::File::options().append(true).open(mount("f")).map(drop));
    door.mallory.wait();
    assert_eq!(names(door.alice.root()), ["d", "f"]);
    assert_eq!(fs::read(door.alice.at("f")).unwrap(), b"content");
}

/// Somebody with a p2pfs of their own who knows where a member listens gets nothing from there.
#[test]
fn a_stranger_is_no_peer() {
    let group = Group::two();
    fs::write(group.alice().at("f"), "content").unwrap();
    // Bytes of every kind at the port first: noise has to be borne.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = p2pfs_tests::random::Random::new(1);
    for len in (1..1400).step_by(7) {
        let _ = socket.send_to(&random.bytes(len), group.alice().listens_at());
    }
    // Then a member of another volume, through the same registry.
    let mut mallory = Peer::new(&Arc::new(Scratch::new()), "mallory");
    mallory.init(&["--registry", group.registry.address()]);
    mallory.mount();
    eventually("mallory is registered", || match &mallory.listing("status")["registries"][0]["state"] {
        state if state == "connected" => Ok(()),
        state => Err(state.to_string()),
    });
    group.in_step();
    assert_eq!(mallory.connected(), 0);
    assert_eq!(mallory.listing("peers").as_array().unwrap().len(), 0);
    assert!(names(mallory.root()).is_empty());
    assert_eq!(group.alice().connected(), 1);
}

#[test]
fn an_answer_nobody_reads_is_no_crash() {
    let peer = Peer::alone();
    let mut child = peer.command(["users"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&done.stderr).contains("panicked"), "{done:?}");
}

#[test]
fn the_registry_refuses_as_clearly() {
    let scratch = Scratch::new();
    let refused = |listen: &str, state: &Path| {
        let mut command = std::process::Command::new(p2pfs_tests::binaries::program("p2pfs-registry"));
        command.args(["--listen", listen, "--state"]).arg(state);
        one_refusal(&format!("{command:?}"), &command.output().unwrap())
    };
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    says(&refused(&address, &scratch.path().join("state")), &[&address, "in use"]);
    let file = scratch.path().join("file");
    fs::File::create(&file).unwrap().write_all(b"x").unwrap();
    refused("127.0.0.1:0", &file);
    let damaged = scratch.make("damaged");
    fs::write(damaged.join("key"), "short").unwrap();
    refused("127.0.0.1:0", &damaged);
    assert_eq!(fs::read(damaged.join("key")).unwrap(), b"short");
}
