//! Files that members send each other directly, with real daemons: `p2pfs send` and `p2pfs inbox`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crypto::{Hash, Label};
use p2pfs_tests::{
    group::Group,
    patience::{eventually, holds, within},
    peer::Peer,
    process,
    rogue::{Line, Rogue},
};
use peer_net::{
    close,
    frame::{self, FrameReader},
    sends::{
        Answer, Have, Offer, Opening, Report, SendId,
        manifest::{Entry, Kind},
    },
};
use quinn::{ConnectionError, RecvStream, SendStream};
use rustix::process::Signal;
use serde_bytes::ByteBuf;
use serde_json::Value;

fn inbox(peer: &Peer) -> Vec<Value> {
    peer.listing("inbox").as_array().unwrap().clone()
}

/// The newest one.
fn last(peer: &Peer) -> Value {
    inbox(peer).pop().unwrap_or_default()
}

fn await_state(peer: &Peer, state: &str) -> Value {
    within(Duration::from_secs(90), &format!("{}'s newest transfer is {state}", peer.name()), || {
        let last = last(peer);
        if last["state"] == state { Ok(last) } else { Err(last.to_string()) }
    })
}

/// Offers without waiting for more.
fn offer(peer: &Peer, path: &Path, user: &str) {
    peer.run(["send".as_ref(), "--background".as_ref(), path.as_os_str(), user.as_ref()]);
}

fn accept(peer: &Peer, transfer: &Value, to: &Path) -> String {
    let id = transfer["id"].to_string();
    peer.run(["inbox".as_ref(), "accept".as_ref(), id.as_ref(), "--to".as_ref(), to.as_os_str()])
}

fn folder(peer: &Peer, name: &str) -> PathBuf {
    let folder = peer.scratch().join(format!("{} {name}", peer.name()));
    fs::create_dir(&folder).unwrap();
    folder
}

/// Bytes that no two files share, so that a mistake shows.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `p2pfs send` as somebody runs it who waits for it.
fn start(peer: &Peer, path: &Path, user: &str) -> Child {
    let mut command = peer.command(["send".as_ref(), path.as_os_str(), user.as_ref()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn files_and_trees_arrive_as_they_are() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    group.in_step();
    let (from, to) = (folder(alice, "out"), folder(bob, "in"));
    let tree = from.join("a tree");
    fs::create_dir_all(tree.join("deep/er/empty")).unwrap();
    for n in 0..300 {
        fs::write(tree.join(format!("deep/{n}")), noise(n * 7, n as u64)).unwrap();
    }
    fs::write(tree.join("deep/er/large"), noise(5_000_001, 7)).unwrap();
    fs::write(tree.join("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("program"), fs::Permissions::from_mode(0o6755)).unwrap();
    symlink("/etc/passwd", tree.join("link")).unwrap();
    fs::write(tree.join("Ünïcode \u{202e}"), "x").unwrap();
    let sending = start(alice, &tree, "bob");
    let offered = await_state(bob, "offered");
    assert_eq!((offered["user"].as_str(), offered["name"].as_str()), (Some("alice"), Some("a tree")));
    assert_eq!((offered["files"].as_u64(), offered["incoming"].as_bool()), (Some(303), Some(true)));
    assert_eq!(names(&to), [""; 0], "nothing comes before it is accepted");
    let placed = accept(bob, &offered, &to);
    assert_eq!(placed, to.join("a tree").display().to_string());
    let done = sending.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("is with bob"), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("1 left out"), "{done:?}");
    fs::remove_file(tree.join("link")).unwrap();
    let same = Command::new("diff").arg("-r").args([&tree, &to.join("a tree")]).output().unwrap();
    assert!(same.status.success(), "{same:?}");
    assert_eq!(names(&to), ["a tree"], "nothing is left beside it");
    let mode = |path: &str| fs::metadata(to.join("a tree").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("program"), mode("deep/1"), mode("deep")), (0o700, 0o600, 0o700));

    // Both say what became of it, and to whom.
    assert_eq!(last(alice)["state"], "done");
    let log = bob.run(["log", "--op", "send"]);
    assert!(log.contains("alice") && log.contains("offered 303 files") && log.contains("303 files came"), "{log}");
    let log = alice.run(["log", "--op", "send"]);
    assert!(log.contains("offered 1 path to bob") && log.contains("303 files arrived at bob"), "{log}");
    assert!(bob.run(["inbox"]).contains("done"));
    assert!(!bob.run(["inbox"]).contains('\u{202e}'));

    // Without a folder it goes to the inbox.
    let note = from.join("note");
    fs::write(&note, "hello").unwrap();
    offer(alice, &note, "bob");
    let offered = await_state(bob, "offered");
    bob.run(["inbox", "accept", &offered["id"].to_string()]);
    assert_eq!(fs::read(bob.home().join("inbox/note")).unwrap(), b"hello");
}

#[test]
fn what_is_declined_cancelled_or_always_taken() {
    let mut group = Group::two();
    group.in_step();
    let (alice, bob) = (group.alice(), group.bob());
    let (from, to) = (folder(alice, "out"), folder(bob, "in"));
    let file = from.join("report.pdf");
    fs::write(&file, noise(100_000, 1)).unwrap();
    let sending = start(alice, &file, "bob");
    let offered = await_state(bob, "offered");
    let id = offered["id"].to_string();
    assert!(bob.refused(["inbox", "accept", &id, "--to", "/nowhere"]).contains("no folder"));
    assert!(bob.refused(["inbox", "accept", "77"]).contains("no transfer 77"));
    bob.run(["inbox", "decline", &id]);
    let done = sending.wait_with_output().unwrap();
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains("bob declined report.pdf"));
    assert!(bob.refused(["inbox", "accept", &id]).contains("is over"));
    assert!(alice.run(["log", "--op", "send", "--denied"]).contains("bob declined"));

    // Whoever interrupts the command takes the offer back.
    let mut sending = start(alice, &file, "bob");
    await_state(bob, "offered");
    process::send(&sending, Signal::INT);
    sending.wait().unwrap();
    let cancelled = await_state(bob, "cancelled");
    assert!(cancelled["why"].as_str().unwrap().contains("took it back"), "{cancelled}");
    assert_eq!(last(alice)["state"], "cancelled");

    // What is there is never touched.
    fs::write(to.join("report.pdf"), "mine").unwrap();
    let said = bob.run(["inbox".as_ref(), "always".as_ref(), "alice".as_ref(), "--to".as_ref(), to.as_os_str()]);
    assert!(said.contains("from now on"), "{said}");
    for _ in 0..2 {
        assert!(alice.run(["send".as_ref(), file.as_os_str(), "bob".as_ref()]).contains("is with bob"));
    }
    assert_eq!(names(&to), ["report (2).pdf", "report (3).pdf", "report.pdf"]);
    assert_eq!(fs::read(to.join("report.pdf")).unwrap(), b"mine");
    assert_eq!(fs::read(to.join("report (3).pdf")).unwrap(), noise(100_000, 1));
    let listed = bob.run(["inbox", "always"]);
    assert!(listed.contains("alice") && listed.contains(&to.display().to_string()), "{listed}");
    assert!(bob.run(["inbox", "ask", "alice"]).contains("asked again"));

    // Who isn't there gets it when they are back, also if the sender was away in between.
    group.peers[1].kill9();
    offer(group.alice(), &file, "bob");
    assert_eq!(last(group.alice())["state"], "waiting");
    group.peers[0].kill9();
    group.peers[0].mount();
    group.peers[1].mount();
    let offered = await_state(group.bob(), "offered");
    accept(group.bob(), &offered, &to);
    await_state(group.alice(), "done");
    assert_eq!(fs::read(to.join("report (4).pdf")).unwrap(), noise(100_000, 1));

    let alice = group.alice();
    assert!(alice.refused(["send".as_ref(), file.as_os_str(), "dora".as_ref()]).contains("no member `dora`"));
    assert!(alice.refused(["send".as_ref(), file.as_os_str(), "alice".as_ref()]).contains("no other device"));
    assert!(alice.refused(["send", "/nowhere/at all", "bob"]).contains("no such file"));
}

/// The bytes in the hidden folder of what is arriving.
fn arriving(to: &Path, name: &str) -> u64 {
    let hidden = names(to).into_iter().find(|name| name.starts_with(".p2pfs-partial-"));
    hidden.and_then(|hidden| fs::metadata(to.join(hidden).join(name)).ok()).map_or(0, |about| about.len())
}

#[test]
fn either_daemon_may_be_killed_at_any_time_and_it_goes_on_where_it_was() {
    const SIZE: usize = 600 << 20;
    let mut group = Group::two();
    group.in_step();
    let (from, to) = (folder(group.alice(), "out"), folder(group.bob(), "in"));
    let file = from.join("large");
    fs::write(&file, noise(SIZE, 3)).unwrap();
    let always = ["inbox".as_ref(), "always".as_ref(), "alice".as_ref(), "--to".as_ref(), to.as_os_str()];
    group.bob().run(always);
    offer(group.alice(), &file, "bob");
    let mut before = 0;
    let mut cuts = 0;
    for (round, victim) in [1, 0, 1, 0].into_iter().enumerate() {
        // Somewhere in what is left.
        let at = before + (20 << 20) + (round as u64 * 37 % 11) * (5 << 20);
        let reached = within(Duration::from_secs(120), "it gets further", || {
            let now = arriving(&to, "large");
            let over = names(&to).contains(&"large".to_owned());
            holds(now >= at || over, || format!("{now} of {at}")).map(|()| !over)
        });
        if !reached {
            break;
        }
        group.peers[victim].kill9();
        cuts += 1;
        let left = arriving(&to, "large");
        assert!(left >= before, "{left} after {before}: it began anew");
        before = left;
        group.peers[victim].mount();
    }
    assert!(cuts >= 2, "it was quicker than the kills: {cuts}");
    let done = within(Duration::from_secs(120), "it arrives", || {
        let last = last(group.bob());
        if last["state"] == "running" && last["resumed"].as_u64() > Some(0) {
            assert!(last["resumed"].as_u64().unwrap() >= before.min(20 << 20), "{last}");
        }
        if last["state"] == "done" { Ok(last) } else { Err(last.to_string()) }
    });
    println!("{cuts} cuts, the last one with {} MiB there", before >> 20);
    assert_eq!(done["files"], 1);
    assert!(fs::read(to.join("large")).unwrap() == fs::read(&file).unwrap(), "other bytes arrived");
    assert_eq!(names(&to), ["large"]);
    await_state(group.alice(), "done");
    // What was there was not sent again.
    assert!(group.bob().log_text().contains("of a send were here already"), "{}", group.bob().log_text());
}

#[test]
fn a_file_that_changes_between_two_parts_of_it_comes_anew() {
    const SIZE: usize = 300 << 20;
    let mut group = Group::two();
    group.in_step();
    let (from, to) = (folder(group.alice(), "out"), folder(group.bob(), "in"));
    let file = from.join("large");
    fs::write(&file, noise(SIZE, 3)).unwrap();
    let always = ["inbox".as_ref(), "always".as_ref(), "alice".as_ref(), "--to".as_ref(), to.as_os_str()];
    group.bob().run(always);
    offer(group.alice(), &file, "bob");
    eventually("some of it is there", || holds(arriving(&to, "large") > 10 << 20, || "little".to_owned()));
    group.peers[0].kill9();
    fs::write(&file, noise(SIZE, 4)).unwrap();
    group.peers[0].mount();
    await_state(group.alice(), "done");
    assert!(fs::read(to.join("large")).unwrap() == noise(SIZE, 4), "a mixture arrived");
    assert!(group.alice().log_text().contains("went anew"), "{}", group.alice().log_text());
}

#[test]
fn a_full_disk_is_told_on_both_sides() {
    let group = Group::two();
    group.in_step();
    let (alice, bob) = (group.alice(), group.bob());
    let (from, to) = (folder(alice, "out"), folder(bob, "in"));
    let file = from.join("large");
    fs::write(&file, noise(60 << 20, 3)).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=50m", "tmpfs"]).arg(&to).status().unwrap();
    assert!(mounted.success());
    offer(alice, &file, "bob");
    let id = await_state(bob, "offered")["id"].to_string();
    let accept =
        ["inbox".as_ref(), "accept".as_ref(), id.as_ref(), "--background".as_ref(), "--to".as_ref(), to.as_os_str()];
    bob.run(accept);
    for peer in [alice, bob] {
        eventually(&format!("{} knows", peer.name()), || {
            let last = last(peer);
            holds(last["why"].as_str().is_some_and(|why| why.contains("full")), || last.to_string())
        });
    }
    // With room it goes on by itself.
    let grown = Command::new("mount").args(["-o", "remount,size=200m"]).arg(&to).status().unwrap();
    assert!(grown.success());
    await_state(alice, "done");
    assert!(fs::read(to.join("large")).unwrap() == fs::read(&file).unwrap());
    assert!(Command::new("umount").arg(&to).status().unwrap().success());
}

#[test]
fn what_members_put_in_the_place_of_what_was_named_is_not_it() {
    let mut group = Group::two();
    group.in_step();
    let (alice, bob) = (group.alice(), group.bob());
    let (secrets, to) = (folder(alice, "secrets"), folder(bob, "in"));
    fs::write(secrets.join("id_ed25519"), "hers").unwrap();
    // What is offered becomes a link out of the volume, another file, or a folder with one more in it.
    for name in ["linked", "moved", "folder", "same"] {
        fs::create_dir(alice.at(name)).unwrap();
        fs::write(alice.at(name).join("f"), name).unwrap();
    }
    fs::write(alice.at("diary"), "hers").unwrap();
    for path in ["linked/f", "moved/f", "folder", "same"] {
        offer(alice, &alice.at(path), "bob");
    }
    group.in_step();
    let offered: Vec<Value> = within(Duration::from_secs(30), "bob is asked four times", || {
        let all = inbox(bob);
        if all.len() == 4 { Ok(all) } else { Err(format!("{all:?}")) }
    });
    fs::remove_file(bob.at("linked/f")).unwrap();
    symlink(secrets.join("id_ed25519"), bob.at("linked/f")).unwrap();
    fs::rename(bob.at("diary"), bob.at("moved/f")).unwrap();
    fs::write(bob.at("folder/more"), "more").unwrap();
    group.in_step();
    // The same file is the same one after a restart.
    group.peers[0].unmount();
    group.peers[0].mount();
    let (alice, bob) = (group.alice(), group.bob());
    for transfer in &offered {
        let id = transfer["id"].to_string();
        let to = to.to_str().unwrap();
        // (Some are over already: alice's device looked when it was back.)
        bob.command(["inbox", "accept", &id, "--background", "--to", to]).output().unwrap();
    }
    within(Duration::from_secs(60), "what is the same arrives, and nothing else goes on", || {
        let states: Vec<_> = inbox(alice).iter().map(|one| (one["state"].clone(), one["why"].clone())).collect();
        let is_over = states[3].0 == "done" && states[1].0 == "failed" && states[2].0 == "failed";
        holds(is_over && !states[0].1.is_null() && states[0].0 != "done", || format!("{states:?}"))
    });
    assert_eq!(names(&to).into_iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(), ["same"]);
    assert_eq!(fs::read(to.join("same/f")).unwrap(), b"same");

    // Nor does anything arrive behind a link that was put where it is to arrive.
    fs::create_dir(bob.at("arrivals")).unwrap();
    let out = folder(bob, "out");
    let at = bob.at("arrivals").display().to_string();
    bob.run(["inbox", "always", "alice", "--to", &at]);
    group.in_step();
    fs::remove_dir(alice.at("arrivals")).unwrap();
    symlink(&out, alice.at("arrivals")).unwrap();
    group.in_step();
    let gift = secrets.join("authorized_keys");
    fs::write(&gift, "hers").unwrap();
    offer(alice, &gift, "bob");
    eventually("bob is told why it does not arrive", || {
        let told = last(bob);
        holds(told["why"].as_str().is_some_and(|why| why.contains("link")), || told.to_string())
    });
    assert_eq!(names(&out), [""; 0]);
    // Nor in another folder that was put there, until that is named.
    fs::remove_file(bob.at("arrivals")).unwrap();
    fs::create_dir(bob.at("arrivals")).unwrap();
    eventually("bob is told that it is another one", || {
        let told = last(bob);
        holds(told["why"].as_str().is_some_and(|why| why.contains("another folder")), || told.to_string())
    });
    bob.run(["inbox", "cancel", &last(bob)["id"].to_string()]);
    bob.run(["inbox", "always", "alice", "--to", &at]);
    offer(group.alice(), &gift, "bob");
    await_state(bob, "done");
    assert_eq!(fs::read(bob.at("arrivals/authorized_keys")).unwrap(), b"hers");
}

#[test]
fn messages_and_files_of_the_volume_overtake_a_send() {
    let group = Group::two();
    group.in_step();
    let (alice, bob) = (group.alice(), group.bob());
    let (from, to) = (folder(alice, "out"), folder(bob, "in"));
    let file = from.join("large");
    fs::write(&file, noise(1 << 30, 3)).unwrap();
    let always = ["inbox".as_ref(), "always".as_ref(), "alice".as_ref(), "--to".as_ref(), to.as_os_str()];
    bob.run(always);
    offer(alice, &file, "bob");
    eventually("some of it is there", || holds(arriving(&to, "large") > 10 << 20, || "little".to_owned()));
    let start = Instant::now();
    fs::write(alice.at("meanwhile"), "small").unwrap();
    eventually("a saved file is there", || match fs::read(bob.at("meanwhile")) {
        Ok(bytes) if bytes == b"small" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let took = start.elapsed();
    println!("a saved file was there after {took:?}, with {} MiB of the send", arriving(&to, "large") >> 20);
    assert!(took < Duration::from_secs(2), "{took:?}");
    await_state(alice, "done");
}

/// What she offers.
fn hers(id: u8, files: u64, bytes: u64, name: &[u8]) -> Opening {
    let names = vec![ByteBuf::from(name.to_vec())];
    Opening::Offer(Offer { id: SendId::new([id; 16]), files, bytes, names })
}

/// Paths, and what she says is there.
type Claimed<'a> = Vec<(&'a [u8], Kind)>;

struct Theirs {
    send: SendStream,
    receive: FrameReader<RecvStream>,
}

impl Theirs {
    async fn open(line: &Line, opening: &Opening) -> Self {
        let (mut send, receive) = line.connection.open_bi().await.unwrap();
        send.write_all(&[2]).await.unwrap();
        frame::write_value(&mut send, opening).await.unwrap();
        Self { send, receive: FrameReader::new(receive, 1 << 20) }
    }

    /// Sends a manifest, after which an honest one is told what is there.
    async fn manifest(&mut self, entries: &[(&[u8], Kind)]) {
        let entry = |(path, kind): &(&[u8], Kind)| Entry { path: ByteBuf::from(path.to_vec()), kind: *kind };
        let entries: Vec<Entry> = entries.iter().map(entry).collect();
        frame::write_value(&mut self.send, &entries).await.unwrap();
        frame::write_value(&mut self.send, &Vec::<Entry>::new()).await.unwrap();
    }
}

/// She has valid keys and the user's yes, and says what she likes: nothing is written outside the folder, or beyond what she
/// had offered.
#[test]
fn a_cheating_sender_writes_nowhere() {
    const FILE: Kind = Kind::File { size: 3, executable: false };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let group = Group::two();
    let bob = group.bob();
    let to = folder(bob, "in");
    fs::write(bob.scratch().join("outside"), "mine").unwrap();
    let mallory = runtime.block_on(Rogue::join(&group.alice().invite(), "mallory"));
    let at: std::net::SocketAddr = bob.listens_at().parse().unwrap();
    eventually("bob knows her", || {
        let users = bob.listing("users").to_string();
        holds(users.contains("mallory"), || users)
    });
    bob.run(["inbox".as_ref(), "always".as_ref(), "mallory".as_ref(), "--to".as_ref(), to.as_os_str()]);

    // An honest send of hers works: what follows is refused for what it is.
    runtime.block_on(async {
        let line = mallory.connect(at).await;
        let mut stream = Theirs::open(&line, &hers(1, 1, 3, b"x")).await;
        assert_eq!(stream.receive.expect_value::<Answer>().await.unwrap(), Answer::Go);
        stream.manifest(&[(b"x", FILE)]).await;
        assert!(stream.receive.expect_value::<Vec<Have>>().await.unwrap().is_empty());
        let mut contents = vec![0; 8];
        contents.extend_from_slice(&3_u32.to_le_bytes());
        contents.extend_from_slice(b"abc");
        contents.extend_from_slice(&0_u32.to_le_bytes());
        contents.extend_from_slice(Hash::of_bytes(Label::SentFile, b"abc").as_bytes());
        stream.send.write_all(&contents).await.unwrap();
        assert_eq!(stream.receive.expect_value::<Report>().await.unwrap(), Report::Done);
    });
    assert_eq!(names(&to), ["x"]);

    // The names in an offer are checked as those in a manifest.
    let offers = [
        hers(2, 1, 3, b"../outside"),
        hers(2, 1, 3, b"/etc/passwd"),
        hers(2, 1, 3, b""),
        hers(2, 1, 3, b"a\nb"),
        hers(2, u64::MAX, 3, b"x"),
    ];
    // A folder is where each of these could lead elsewhere.
    let folder: (&[u8], Kind) = (b"x", Kind::Folder);
    let manifests: [(u64, u64, Claimed<'_>); 9] = [
        (1, 3, vec![folder, (b"x/../../outside", FILE)]),
        (1, 3, vec![folder, (b"x/..", FILE)]),
        (1, 3, vec![folder, (b"/x", FILE)]),
        (1, 3, vec![folder, (b"x//y", FILE)]),
        (1, 3, vec![folder, (b"x/a\0b", FILE)]),
        (1, 3, vec![folder, (b"y/z", FILE)]),
        (2, 6, vec![folder, (b"x/a", FILE), (b"x/a", FILE)]),
        // More than she had offered, and another name.
        (1, 3, vec![folder, (b"x/a", Kind::File { size: 4, executable: false })]),
        (1, 3, vec![(b"y", FILE)]),
    ];
    let tried = offers.len() + manifests.len();
    let misbehaved = |log: &str| log.matches("misbehaved: ").count();
    assert_eq!(misbehaved(&bob.log_text()), 0);
    for number in 0..tried {
        // Whoever misbehaved is shut out for a while: each comes from somebody else.
        let name = format!("mallory{number}");
        let cheat = runtime.block_on(Rogue::join(&group.alice().invite(), &name));
        eventually("bob knows her", || {
            let users = bob.listing("users").to_string();
            holds(users.contains(&name), || users)
        });
        bob.run(["inbox".as_ref(), "always".as_ref(), name.as_ref(), "--to".as_ref(), to.as_os_str()]);
        let ended = runtime.block_on(async {
            let line = cheat.connect(at).await;
            match offers.get(number) {
                Some(opening) => drop(Theirs::open(&line, opening).await.receive.next().await),
                None => {
                    let (files, bytes, entries) = &manifests[number - offers.len()];
                    let mut stream = Theirs::open(&line, &hers(3, *files, *bytes, b"x")).await;
                    assert_eq!(stream.receive.expect_value::<Answer>().await.unwrap(), Answer::Go);
                    stream.manifest(entries).await;
                    let _refused = stream.receive.next().await;
                }
            }
            tokio::time::timeout(Duration::from_secs(10), line.connection.closed()).await
        });
        let closed =
            matches!(&ended, Ok(ConnectionError::ApplicationClosed(closed)) if closed.error_code == close::MISBEHAVED);
        assert!(closed, "{number}: {ended:?}");
        eventually("it is told", || {
            let now = misbehaved(&bob.log_text());
            holds(now > number, || format!("{now}"))
        });
    }
    assert_eq!(names(&to), ["x"], "nothing of it came");
    assert_eq!(fs::read(bob.scratch().join("outside")).unwrap(), b"mine");
    assert!(!bob.scratch().join("z").exists());

    // Very many offers: a few wait, and the others are put off without a word to the user.
    bob.run(["inbox", "ask", "mallory"]);
    let answers = runtime.block_on(async {
        let line = mallory.connect(at).await;
        let mut answers = Vec::new();
        for id in 100..130 {
            let mut stream = Theirs::open(&line, &hers(id, 1, 1, b"spam")).await;
            answers.push(stream.receive.expect_value::<Answer>().await.unwrap());
        }
        answers
    });
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Asked).count(), 16, "{answers:?}");
    assert!(answers[20..].iter().all(|answer| *answer == Answer::Busy), "{answers:?}");
    let log = bob.run(["log", "--op", "send", "--denied"]);
    assert!(log.contains("too many offers"), "{log}");
}
