//! Several devices of one user, invitations, and keys that people keep: with real daemons.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
};

use p2pfs_tests::{
    patience::eventually, peer::Peer, random::Random, registry::Registry, scratch::Scratch, tool::succeed,
};

/// How many calls apart the points are at which a change of the passphrase dies.
const KILL_STEP: u64 = 3;

struct House {
    scratch: Arc<Scratch>,
    alice: Peer,
    registry: Registry,
}

impl House {
    /// Alice's volume, mounted.
    fn new() -> Self {
        let scratch = Arc::new(Scratch::new());
        let registry = Registry::start(&scratch);
        let mut alice = Peer::new(&scratch, "alice");
        alice.init(&["--registry", registry.address()]);
        alice.mount();
        Self { scratch, alice, registry }
    }

    fn machine(&self, name: &str) -> Peer {
        Peer::new(&self.scratch, name)
    }

    /// A member, mounted.
    fn member(&self, name: &str, role: &str) -> Peer {
        let mut peer = self.machine(name);
        peer.join(&self.alice.run(["invite", "--role", role]));
        peer.mount();
        peer.await_connected(1);
        peer
    }

    fn passphrase(&self, name: &str, text: &str) -> PathBuf {
        let file = self.scratch.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }
}

fn join_as_device(machine: &Peer, ticket: &str) -> String {
    machine.run(["join", ticket, "--no-passphrase"])
}

fn reads(peer: &Peer, path: &str, content: &str) {
    eventually(&format!("{} reads {path}", peer.name()), || match fs::read_to_string(peer.at(path)) {
        Ok(text) if text == content => Ok(()),
        Ok(text) => Err(text),
        Err(e) => Err(e.to_string()),
    });
}

fn user<'a>(users: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    users.as_array().unwrap().iter().find(|user| user["name"] == name).unwrap()
}

#[test]
fn the_next_device_works_as_its_user() {
    let house = House::new();
    fs::write(house.alice.at("plan"), "meet at noon").unwrap();
    let ticket = house.alice.run(["invite", "--device"]);
    let mut laptop = house.machine("laptop");
    let wrong = laptop.refused(["join", &ticket, "--name", "bob", "--no-passphrase"]);
    assert!(wrong.contains("a device of `alice`"), "{wrong}");
    let said = join_as_device(&laptop, &ticket);
    assert!(said.contains("as alice"), "{said}");
    laptop.mount();
    laptop.await_connected(1);
    reads(&laptop, "plan", "meet at noon");
    fs::write(laptop.at("from the laptop"), "hi").unwrap();
    reads(&house.alice, "from the laptop", "hi");
    for peer in [&house.alice, &laptop] {
        let users = peer.listing("users");
        assert_eq!(users.as_array().unwrap().len(), 1, "{users}");
        assert_eq!(user(&users, "alice")["devices"].as_array().unwrap().len(), 2);
        assert_eq!(user(&users, "alice")["me"], true);
    }
    // One fingerprint of the user everywhere, one of each device.
    let digits = |peer: &Peer| user(&peer.listing("users"), "alice")["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(digits(&house.alice), digits(&laptop));
    let shown = laptop.run(["fingerprint"]);
    assert!(shown.starts_with("alice (you)") && shown.matches("device ").count() == 2, "{shown}");
    let flat: Vec<&str> = shown.split_whitespace().collect();
    assert!(flat.join(" ").contains(&digits(&house.alice)), "{shown}");
    // It invites others as the owner does, but no device: the signing key stayed where it was.
    let no = laptop.refused(["invite", "--device"]);
    assert!(no.contains("signing key"), "{no}");
    let mut bob = house.machine("bob");
    bob.join(&laptop.invite());
    bob.mount();
    reads(&bob, "from the laptop", "hi");
    // It lives on when it is mounted again.
    laptop.unmount();
    laptop.mount();
    fs::write(laptop.at("again"), "yes").unwrap();
    reads(&bob, "again", "yes");
}

#[test]
fn a_ticket_for_a_device_is_its_users_alone_and_used_once() {
    let house = House::new();
    let mut bob = house.member("bob", "admin");
    let ticket = bob.run(["invite", "--device"]);
    bob.wait();
    // Alice owns the volume, and is there; bob is not.
    bob.unmount();
    let phone = house.machine("phone");
    let refused = phone.refused(["join", &ticket, "--no-passphrase"]);
    assert!(refused.contains("online") || refused.contains("answer"), "{refused}");
    assert_eq!(house.alice.listing("devices").as_array().unwrap().len(), 2);
    bob.mount();
    bob.await_connected(1);
    join_as_device(&phone, &ticket);
    let other = house.machine("other");
    let used = other.refused(["join", &ticket, "--no-passphrase"]);
    assert!(used.contains("has been used"), "{used}");
    bob.wait();
    let users = house.alice.listing("users");
    assert_eq!(user(&users, "bob")["devices"].as_array().unwrap().len(), 2);
    assert_eq!(users.as_array().unwrap().len(), 2);
}

#[test]
fn a_reader_has_two_devices() {
    let house = House::new();
    fs::write(house.alice.at("plan"), "meet at noon").unwrap();
    let rita = house.member("rita", "reader");
    let mut tablet = house.machine("tablet");
    join_as_device(&tablet, &rita.run(["invite", "--device"]));
    tablet.mount();
    reads(&tablet, "plan", "meet at noon");
    assert!(fs::write(tablet.at("mine"), "x").is_err());
    eventually("alice knows it", || match house.alice.listing("devices").as_array().unwrap().len() {
        3 => Ok(()),
        count => Err(format!("{count} devices")),
    });
}

#[test]
fn a_withdrawn_ticket_is_refused() {
    let house = House::new();
    let bob = house.member("bob", "writer");
    let (ticket, device) = (house.alice.invite(), bob.run(["invite", "--device"]));
    bob.wait();
    let open = |peer: &Peer| peer.listing("invitations").as_array().unwrap().clone();
    let listed = open(&house.alice);
    assert_eq!(listed.len(), 2, "{listed:?}");
    let id = |of: &str| listed.iter().find(|open| open["of"] == of).unwrap()["id"].as_str().unwrap()[..8].to_owned();
    assert!(house.alice.run(["invitations"]).contains(&id("writer")));
    let no = bob.refused(["invitations", "revoke", &id("writer")]);
    assert!(no.contains("only who invited"), "{no}");
    let none = bob.refused(["invitations", "revoke", "00000000000000"]);
    assert!(none.contains("no open invitation"), "{none}");
    // The owner withdraws bob's as well.
    house.alice.run(["invitations", "revoke", &id("writer")]);
    house.alice.run(["invitations", "revoke", &id("device")]);
    house.alice.wait();
    assert!(open(&house.alice).is_empty() && open(&bob).is_empty());
    let carol = house.machine("carol");
    let refused = carol.refused(["join", &ticket, "--name", "carol", "--no-passphrase"]);
    assert!(refused.contains("withdrawn"), "{refused}");
    let refused = carol.refused(["join", &device, "--no-passphrase"]);
    assert!(refused.contains("withdrawn"), "{refused}");
}

/// Exports a key to a file; returns it with its text.
fn export(peer: &Peer, passphrase: &Path) -> (PathBuf, String) {
    let file = peer.scratch().join(format!("{}.key", peer.name()));
    let sealed_under = passphrase.to_str().unwrap();
    peer.run(["key", "export", "--output", file.to_str().unwrap(), "--export-passphrase-file", sealed_under]);
    let text = fs::read_to_string(&file).unwrap();
    (file, text)
}

fn import(machine: &Peer, file: &Path, passphrase: &Path) -> String {
    let (file, passphrase) = (file.to_str().unwrap(), passphrase.to_str().unwrap());
    machine.run(["key", "import", file, "--export-passphrase-file", passphrase, "--no-passphrase"])
}

#[test]
fn an_exported_key_brings_the_owner_back() {
    let mut house = House::new();
    fs::write(house.alice.at("plan"), "meet at noon").unwrap();
    let bob = house.member("bob", "writer");
    let passphrase = house.passphrase("export", "correct horse\n");
    let (file, text) = export(&house.alice, &passphrase);
    assert!(text.contains("is alice in volume") && text.contains("invitations revoke"), "{text}");
    let again = ["key", "export", "--output", file.to_str().unwrap()];
    assert!(house.alice.refused(again).contains("exists already"));
    house.alice.wait();
    // All that alice had is gone.
    house.alice.unmount();
    fs::remove_dir_all(house.alice.home().join("volumes")).unwrap();

    let mut new = house.machine("new");
    let wrong = house.passphrase("wrong", "zebra");
    let arguments = |file: &Path, passphrase: &Path| {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let import = ["key", "import"].map(str::to_owned).into_iter();
        let more = ["--no-passphrase".to_owned(), "--export-passphrase-file".to_owned(), text(passphrase)];
        import.chain([text(file)]).chain(more).collect::<Vec<_>>()
    };
    let refused = new.refused(arguments(&file, &wrong));
    assert_eq!(refused, "p2pfs: wrong passphrase for the exported key");
    let mistyped = house.scratch.path().join("mistyped");
    let line = text.lines().find(|line| line.trim_start().starts_with("3 ")).unwrap();
    fs::write(&mistyped, text.replace(line, &line.to_uppercase().replacen(char::is_alphabetic, "", 1))).unwrap();
    let refused = new.refused(arguments(&mistyped, &passphrase));
    assert!(refused.contains("line 3"), "{refused}");

    let said = import(&new, &file, &passphrase);
    assert!(said.contains("as alice"), "{said}");
    new.mount();
    reads(&new, "plan", "meet at noon");
    fs::write(new.at("back"), "again").unwrap();
    reads(&bob, "back", "again");
    let users = bob.listing("users");
    assert_eq!(user(&users, "alice")["role"], "owner");
    assert_eq!(user(&users, "alice")["devices"].as_array().unwrap().len(), 2);
    // It holds everything that alice was: it certifies devices.
    let mut laptop = house.machine("laptop");
    join_as_device(&laptop, &new.run(["invite", "--device"]));
    laptop.mount();
    reads(&laptop, "back", "again");
    // Withdrawn, the paper is worthless.
    let listed = new.listing("invitations");
    let exported = listed.as_array().unwrap().iter().find(|open| open["of"] == "exported key").unwrap();
    new.run(["invitations", "revoke", &exported["id"].as_str().unwrap()[..8]]);
    new.wait();
    let thief = house.machine("thief");
    let refused = thief.refused(arguments(&file, &passphrase));
    assert!(refused.contains("withdrawn"), "{refused}");
    drop(house.registry);
}

#[test]
fn a_device_without_the_signing_key_exports_none() {
    let house = House::new();
    let laptop = house.machine("laptop");
    join_as_device(&laptop, &house.alice.run(["invite", "--device"]));
    let passphrase = house.passphrase("export", "correct horse");
    let refused = laptop.refused(["key", "export", "--export-passphrase-file", passphrase.to_str().unwrap()]);
    assert!(refused.contains("signing key"), "{refused}");
}

fn change(peer: &Peer, now: Option<&Path>, then: Option<&Path>) -> Output {
    let mut command = peer.command(["key", "passphrase"]);
    if let Some(now) = now {
        command.arg("--passphrase-file").arg(now);
    }
    match then {
        Some(then) => command.arg("--new-passphrase-file").arg(then),
        None => command.arg("--no-passphrase"),
    };
    command.output().unwrap()
}

/// Whether it is this that opens the keys. (Where there is no passphrase, one that is given is not looked at.)
fn opens(peer: &Peer, with: Option<&Path>) -> bool {
    let opened = |with: Option<&Path>| {
        let mut command = peer.command(["status"]);
        if let Some(with) = with {
            command.arg("--passphrase-file").arg(with);
        }
        command.output().unwrap().status.success()
    };
    let free = opened(None);
    with.map_or(free, |with| !free && opened(Some(with)))
}

#[test]
fn the_passphrase_changes_whole_or_not_at_all() {
    let scratch = Arc::new(Scratch::new());
    let passphrase = |name: &str| {
        let file = scratch.path().join(name);
        fs::write(&file, name).unwrap();
        file
    };
    let (one, two) = (passphrase("one"), passphrase("two"));
    let mut alice = Peer::new(&scratch, "alice");
    succeed(&mut alice.command(["init", "--name", "alice", "--passphrase-file", one.to_str().unwrap()]));
    let bad = change(&alice, Some(&two), Some(&one));
    assert_eq!(String::from_utf8_lossy(&bad.stderr), "p2pfs: wrong passphrase\n");
    let folder = alice.volume_folder();
    alice.with_faults();
    // From each to each, killed before calls that change a file: every third, from anywhere on.
    let steps: [(Option<&Path>, Option<&Path>); 4] =
        [(Some(&one), Some(&two)), (Some(&two), None), (None, Some(&one)), (Some(&one), None)];
    let mut deaths = 0;
    for (now, then) in steps {
        let mut at = 1 + Random::seeded().below(KILL_STEP);
        loop {
            alice.faults().kill_at(at);
            let done = change(&alice, now, then);
            alice.faults().heal();
            // What opens the keys is the one or the other, at any moment.
            let (before, after) = (opens(&alice, now), opens(&alice, then));
            assert!(before || after, "killed at call {at} from {now:?} to {then:?}: nothing opens the keys");
            if done.status.success() {
                assert!(after && !before, "from {now:?} to {then:?}");
                break;
            }
            assert_eq!(done.status.code(), None, "{done:?}");
            deaths += 1;
            if after {
                // Back to where it was, for the next death.
                let back = change(&alice, then, now);
                assert!(back.status.success(), "{back:?}");
            }
            at += KILL_STEP;
        }
        assert!(!folder.join("keys.new").exists());
        assert_eq!(folder.join("unlock.key").exists(), then.is_none());
        assert_eq!(fs::read(folder.join("keys")).unwrap(), fs::read(folder.join("keys.copy")).unwrap());
    }
    assert!(deaths > 10, "{deaths}");
    let none = change(&alice, None, None);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no passphrase already"), "{none:?}");
    // What it is when it is mounted: the next mount asks for the new one.
    alice.without_faults();
    alice.mount();
    let changed = change(&alice, None, Some(&two));
    assert!(changed.status.success(), "{changed:?}");
    fs::write(alice.at("file"), "x").unwrap();
    alice.unmount();
    assert!(!opens(&alice, None) && opens(&alice, Some(&two)));
}

#[test]
fn a_passphrase_is_given_once_for_a_whole_command() {
    let scratch = Arc::new(Scratch::new());
    let mut alice = Peer::new(&scratch, "alice");
    let [keys, export] = ["keys", "export"].map(|name| scratch.path().join(name));
    fs::write(&keys, "horse battery\n").unwrap();
    fs::write(&export, "correct staple\n").unwrap();
    let [keys, export] = [&keys, &export].map(|file| file.to_str().unwrap());
    alice.run(["init", "--name", "alice", "--passphrase-file", keys]);
    // Not mounted, each of these opens the volume more than once.
    for words in [&["fingerprint"][..], &["log"], &["msg", "list"], &["config", "history.keep-all", "40d"]] {
        let mut piped = alice.command(words.iter().chain(&["--passphrase-file", "-"]));
        succeed(piped.stdin(fs::File::open(keys).unwrap()));
    }
    let (shown, done) = alice.typed("fingerprint", "horse battery\n");
    assert!(done && shown.matches("passphrase: ").count() == 1 && shown.contains("alice (you)"), "{shown}");
    let export = |alice: &Peer| {
        let mut piped = alice.command(["key", "export", "--passphrase-file", "-", "--export-passphrase-file", export]);
        succeed(piped.stdin(fs::File::open(keys).unwrap()))
    };
    assert!(export(&alice).contains("Whoever has this"));
    alice.set_options(&["--passphrase-file", keys]);
    alice.mount();
    assert!(export(&alice).contains("Whoever has this"));
    alice.unmount();
    // What needs the daemon says so before anybody types anything.
    for words in [&["send", keys, "bob"][..], &["inbox"]] {
        let said = alice.refused(words);
        assert!(said.ends_with("is not mounted: mount it with `p2pfs mount`"), "{said}");
    }
}
