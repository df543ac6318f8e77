//! A join that is killed, on either side and at any point: run again, it goes on as the same device. No member is left
//! that nobody is.

use std::{fs, process::Output, sync::Arc};

use p2pfs_tests::{
    peer::Peer, random::Random, registry::Registry, scratch::Scratch, setting, tool::succeed, tree::names,
};

/// How many calls apart the points are at which a joiner dies, of its 900 or so.
fn kill_step() -> u64 {
    12 * setting("P2PFS_TEST_KILL_STEP", 13)
}

struct Door {
    scratch: Arc<Scratch>,
    alice: Peer,
    _registry: Registry,
}

impl Door {
    fn new() -> Self {
        let scratch = Arc::new(Scratch::new());
        let registry = Registry::start(&scratch);
        let mut alice = Peer::new(&scratch, "alice");
        alice.init(&["--registry", registry.address()]);
        alice.mount();
        Self { scratch, alice, _registry: registry }
    }

    /// Somebody on a machine of their own, on which the calls can fail.
    fn joiner(&self, name: &str) -> Peer {
        let mut joiner = Peer::new(&self.scratch, name);
        fs::create_dir(joiner.home().join("volumes")).unwrap();
        joiner.with_faults();
        joiner
    }

    /// The names of the members, as alice knows them; each has one device.
    fn members(&self) -> Vec<String> {
        assert_eq!(
            self.alice.listing("users").as_array().unwrap().len(),
            self.alice.listing("devices").as_array().unwrap().len()
        );
        let users = self.alice.listing("users");
        let mut names: Vec<String> =
            users.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

fn try_join(joiner: &Peer, ticket: &str, name: &str) -> Output {
    joiner.command(["join", ticket, "--name", name, "--no-passphrase"]).output().unwrap()
}

fn said(done: &Output) -> String {
    [&done.stdout[..], &done.stderr].map(String::from_utf8_lossy).concat()
}

/// There is the volume on this machine, and nothing half made beside it.
fn one_volume(joiner: &Peer) {
    let made = names(&joiner.home().join("volumes"));
    assert!(made.len() == 1 && !made[0].starts_with('.'), "{made:?}");
}

#[test]
fn a_killed_join_goes_on_as_the_same_device() {
    let door = Door::new();
    let mut members = vec!["alice".to_owned()];
    let (mut at, mut resumed) = (1 + Random::seeded().below(kill_step()), 0);
    loop {
        let name = format!("bob{at}");
        let (mut joiner, ticket) = (door.joiner(&name), door.alice.invite());
        joiner.faults().kill_at(at);
        let first = try_join(&joiner, &ticket, &name);
        let done = first.status.success();
        joiner.without_faults();
        if !done {
            assert_eq!(first.status.code(), None, "killed at call {at}: {}", said(&first));
            let again = try_join(&joiner, &ticket, &name);
            if again.status.success() {
                assert!(said(&again).contains(&format!("as {name}")), "{}", said(&again));
                resumed += u64::from(said(&again).contains("going on with the join that was interrupted"));
            } else {
                // It died when it was done, and had not said so yet.
                let why = said(&again);
                assert!(why.contains("this volume is on this machine already"), "after a death at call {at}: {why}");
                joiner.mount();
                assert_eq!(joiner.listing("status")["user"], name.as_str());
                joiner.unmount();
            }
        }
        one_volume(&joiner);
        members.push(name);
        members.sort();
        assert_eq!(door.members(), members, "after a death at call {at}");
        if done {
            break;
        }
        at += kill_step();
    }
    println!("{} deaths, {resumed} after the keys were saved", members.len() - 2);
    assert!(resumed > 0);
}

#[test]
fn who_was_let_in_already_keeps_the_name_of_then() {
    let door = Door::new();
    let (mut joiner, ticket) = (door.joiner("bob"), door.alice.invite());
    joiner.faults().kill_at(u64::MAX);
    let calls = {
        let measured = door.joiner("carol");
        let done = try_join(&measured, &door.alice.invite(), "carol");
        assert!(done.status.success(), "{}", said(&done));
        measured.faults().calls()
    };
    joiner.faults().kill_at(calls - 1);
    assert_eq!(try_join(&joiner, &ticket, "bob").status.code(), None);
    assert_eq!(door.members(), ["alice", "bob", "carol"], "let in");
    joiner.without_faults();
    // Also with a ticket of its own, and with another passphrase.
    let passphrase = joiner.scratch().join("passphrase");
    fs::write(&passphrase, "horse battery").unwrap();
    let said = joiner.run([
        "join",
        &door.alice.invite(),
        "--name",
        "robert",
        "--passphrase-file",
        passphrase.to_str().unwrap(),
    ]);
    assert!(said.contains("as bob"), "{said}");
    assert_eq!(door.members(), ["alice", "bob", "carol"]);
    one_volume(&joiner);
    let volume = joiner.home().join("volumes").join(&names(&joiner.home().join("volumes"))[0]);
    assert!(!volume.join("unlock.key").exists(), "the passphrase alone opens it");
    let listed = joiner.run(["status", "--passphrase-file", passphrase.to_str().unwrap()]);
    assert!(listed.contains("bob, writer"), "{listed}");
}

#[test]
fn a_host_that_dies_while_it_lets_somebody_in_costs_nothing() {
    let mut door = Door::new();
    let mut members = vec!["alice".to_owned()];
    // Admitting is a few calls. The joiner waits for an answer each time, so only one of them is tried, unless all are
    // to be: before the first, between them, and after them.
    for at in if kill_step() == 12 { 1..5 } else { 2..3 } {
        let name = format!("bob{at}");
        let (mut joiner, ticket) = (door.joiner(&name), door.alice.invite());
        joiner.without_faults();
        door.alice.unmount();
        door.alice.with_faults();
        door.alice.mount();
        door.alice.faults().kill_at(at);
        let first = try_join(&joiner, &ticket, &name);
        door.alice.faults().heal();
        if door.alice.is_dead() {
            door.alice.without_faults();
            door.alice.mount();
        }
        if !first.status.success() {
            let again = try_join(&joiner, &ticket, &name);
            assert!(again.status.success(), "host died at call {at}: {}, then {}", said(&first), said(&again));
        }
        one_volume(&joiner);
        members.push(name);
        assert_eq!(door.members(), members);
    }
}

#[test]
fn a_ticket_need_not_be_an_argument() {
    let door = Door::new();
    let [bob, carol] = ["bob", "carol"].map(|name| Peer::new(&door.scratch, name));
    let file = door.scratch.path().join("ticket");
    fs::write(&file, door.alice.invite() + "\n").unwrap();
    let mut piped = bob.command(["join", "-", "--name", "bob", "--no-passphrase"]);
    let said = succeed(piped.stdin(fs::File::open(&file).unwrap()));
    assert!(said.contains("as bob"), "{said}");
    let nobody = carol.refused(["join", "--name", "carol", "--no-passphrase"]);
    assert!(nobody.contains("standard input is no terminal: `p2pfs join -`"), "{nobody}");
    let both = carol.refused(["join", "-", "--name", "carol", "--passphrase-file", "-"]);
    assert!(both.contains("can't both come from standard input"), "{both}");
    let (shown, done) = carol.typed("join --name carol --no-passphrase", &(door.alice.invite() + "\n"));
    assert!(done && shown.contains("as carol"), "{shown}");
    assert_eq!(door.members(), ["alice", "bob", "carol"]);
}
