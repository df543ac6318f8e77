//! A member with a program of her own, who signs and sends what no honest one would: nothing of it shows on anybody's mount,
//! and whoever heard it has it in the log, with her device.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, process::Command};

use p2pfs_tests::{binaries::program, group::Group, patience::eventually, peer::Peer, rogue::Rogue, tool::shell};
use tokio::runtime::Runtime;
use volume::commit::{ChangeKind, ClaimedCommit, Head, RawChange, decode, encode};

struct Scene {
    group: Group,
    runtime: Runtime,
    mallory: Rogue,
}

fn address(peer: &Peer) -> SocketAddr {
    peer.listens_at().parse().unwrap()
}

impl Scene {
    fn new() -> Self {
        let group = Group::two();
        fs::write(group.alice().at("f"), "alice's").unwrap();
        fs::write(group.alice().at("private"), "hers").unwrap();
        fs::set_permissions(group.alice().at("private"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(group.bob().at("folder")).unwrap();
        fs::write(group.bob().at("folder/of bob"), "bob's").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mallory = runtime.block_on(Rogue::join(&group.alice().invite(), "mallory"));
        let scene = Self { group, runtime, mallory };
        scene.settle();
        scene
    }

    fn settle(&self) {
        for peer in &self.group.peers {
            peer.run(["wait", "--timeout", "60s"]);
        }
    }

    fn tell_all(&self, commits: &[ClaimedCommit]) {
        for peer in &self.group.peers {
            self.runtime.block_on(self.mallory.tell(address(peer), commits.to_vec()));
        }
    }

    /// What both show, as far as a program can see it.
    fn shown(&self) -> Vec<String> {
        self.settle();
        let look = |peer: &Peer| shell(peer.root(), "ls -lAR --time-style=full-iso . | grep -v ^total; cat f");
        self.group.peers.iter().map(look).collect()
    }

    /// Both have told of her in their logs, in these words.
    fn is_told(&self, words: &str) {
        for peer in &self.group.peers {
            eventually(&format!("{} tells", peer.name()), || {
                let log = peer.log_text();
                let told = log.lines().any(|line| line.contains(&self.mallory.short()) && line.contains(words));
                if told { Ok(()) } else { Err(log) }
            });
        }
    }
}

impl Scene {
    /// Both have an alert of this kind that names her device and says what to do; the log tells the same.
    fn is_alerted(&self, kind: &str) {
        let her = self.mallory.short();
        for peer in &self.group.peers {
            eventually(&format!("{} raises an alert", peer.name()), || {
                let alerts = peer.listing("alerts");
                let mine = alerts
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|alert| alert["kind"] == kind && alert["who"].as_str().unwrap().starts_with(&her));
                if mine.is_some() { Ok(()) } else { Err(alerts.to_string()) }
            });
            assert!(peer.run(["alerts"]).contains(&her));
            assert!(peer.run(["status"]).contains("`p2pfs alerts` tells of them"));
            let denied = peer.run(["log", "--denied", "--device", &her]);
            assert!(denied.contains("DENIED"), "{denied}");
        }
    }
}

/// Changes of this kind that were made by anybody, each as the only one of a commit.
fn changes(commits: &[ClaimedCommit], is: impl Fn(&ChangeKind) -> bool) -> Vec<RawChange> {
    let all = commits.iter().flat_map(|commit| commit.changes.clone());
    all.filter_map(|raw| {
        let mut head: Head = decode("head", &raw.head).unwrap();
        head.call = 0;
        is(&head.kind).then(|| RawChange { head: encode(&head), body: raw.body })
    })
    .collect()
}

/// Each of these, signed by mallory in a log of its own.
fn as_hers(mallory: &Rogue, seen: &[ClaimedCommit], log: u64, changes: &[RawChange]) -> Vec<ClaimedCommit> {
    let one = |(n, raw): (usize, &RawChange)| mallory.sign(seen, log + n as u64, vec![raw.clone()], None);
    changes.iter().enumerate().map(one).collect()
}

#[test]
fn a_member_with_a_program_of_her_own_changes_nothing_that_she_may_not() {
    let scene = Scene::new();
    scene.mallory.commits(1);
    scene.tell_all(&scene.mallory.all_commits());
    let before = scene.shown();
    assert!(before.iter().all(|shown| shown.contains("junk 0")), "what she may do shows: {before:?}");

    // Everything once more, many times over.
    let all = scene.mallory.all_commits();
    for _ in 0..3 {
        scene.tell_all(&all);
    }
    assert_eq!(scene.shown(), before, "replayed");

    // What is closed to her, or another's to decide about: she takes it, opens it, moves it, with the changes of others signed
    // as hers, and as theirs.
    let accesses = changes(&all, |kind| matches!(kind, ChangeKind::Access { .. }));
    assert!(!accesses.is_empty());
    scene.tell_all(&as_hers(&scene.mallory, &all, 1000, &accesses));
    assert_eq!(scene.shown(), before, "another's rights");
    scene.is_told("void");
    scene.is_alerted("beyond_rights");

    // From now on she may read, and she knows it.
    scene.group.alice().run(["grant", "mallory", "reader"]);
    scene.settle();
    scene.tell_all(&[]);
    let all = scene.mallory.all_commits();
    assert_eq!(scene.mallory.volume.own_role(), Some(volume::Role::Reader));
    let before = scene.shown();
    let contents = changes(&all, |kind| matches!(kind, ChangeKind::Content { .. }));
    let places = changes(&all, |kind| matches!(kind, ChangeKind::Place { .. }));
    for (n, forged) in [contents, places, accesses].into_iter().enumerate() {
        scene.tell_all(&as_hers(&scene.mallory, &all, 2000 + 100 * n as u64, &forged));
        assert_eq!(scene.shown(), before, "a reader's");
    }

    // As if she had not heard of it, and long ago.
    let early: Vec<ClaimedCommit> = all[..all.len() / 2].to_vec();
    let written = changes(&early, |kind| matches!(kind, ChangeKind::Content { .. }));
    scene.tell_all(&as_hers(&scene.mallory, &early, 3000, &written));
    assert_eq!(scene.shown(), before, "backdated");

    // Removed, she is let in by nobody, whatever she says.
    scene.group.alice().run(["revoke", "mallory"]);
    scene.settle();
    let before = scene.shown();
    for peer in &scene.group.peers {
        assert!(scene.runtime.block_on(scene.mallory.try_connect(address(peer))).is_none(), "{}", peer.name());
    }
    let tried = scene.group.alice().run(["log", "--op", "handshake", "--device", &scene.mallory.short()]);
    assert!(tried.contains("DENIED") && tried.contains("shut out for a while"), "{tried}");
    scene.tell_all(&as_hers(&scene.mallory, &early, 5000, &written));
    assert_eq!(scene.shown(), before, "removed");
}

/// In another's name, or with a bit flipped: whoever sends that is sent away, and named.
#[test]
fn forged_commits_shut_out_who_sends_them() {
    for flips in [false, true] {
        let scene = Scene::new();
        scene.mallory.commits(1);
        let all = scene.mallory.all_commits();
        let before = scene.shown();
        let alice = all[0].clone().check().unwrap().header.device;
        let mut forged = all.last().unwrap().clone();
        if flips {
            forged.header[20] ^= 1;
        } else {
            forged = scene.mallory.sign(&all, 4000, forged.changes, Some(alice));
        }
        scene.tell_all(&[forged]);
        assert_eq!(scene.shown(), before);
        scene.is_told("misbehaved");
        scene.is_alerted("malformed");
        let alice = scene.group.alice();
        assert!(alice.run(["alerts"]).contains(&format!("`p2pfs revoke {}`", scene.mallory.short())));
        // (As she says to know nothing, which is less than she did, there may be an alert of that before it.)
        for alert in alice.listing("alerts").as_array().unwrap() {
            let number = alert["n"].to_string();
            assert_eq!(alice.run(["alerts", "acknowledge", &number]), "1 alert acknowledged");
        }
        assert_eq!(alice.run(["alerts"]), "no alerts");
        assert!(alice.refused(["alerts", "acknowledge", "1"]).contains("there is no open alert 1"));
        assert!(alice.run(["alerts", "--all"]).contains("acknowledged"));
    }
}

/// One thing to alice and another to bob, both as her commit of one number: they find it once they meet, and anybody can check it.
#[test]
fn who_says_two_things_as_one_is_proven_to_have_said_both() {
    let scene = Scene::new();
    scene.mallory.commits(1);
    let all = scene.mallory.all_commits();
    scene.tell_all(&all);
    let two = [&all[..], &all[..all.len() - 1]].map(|seen| scene.mallory.sign(seen, 6001, Vec::new(), None));
    for (peer, commit) in scene.group.peers.iter().zip(two) {
        scene.runtime.block_on(scene.mallory.tell(address(peer), vec![commit]));
    }
    scene.settle();
    scene.is_alerted("equivocation");
    let her = scene.mallory.short();
    let (alice, bob) = (scene.group.alice(), scene.group.bob());
    let told = alice.run(["alerts"]);
    assert!(told.contains("certain: mallory's device") && told.contains("put back from a backup"), "{told}");
    assert!(told.contains("`p2pfs proof export 1 FILE`") && told.contains(&format!("`p2pfs revoke {her}`")), "{told}");
    assert!(alice.run(["log", "--op", "equivocated"]).contains("DENIED"));
    let listed = alice.run(["proof", "list"]);
    assert!(listed.contains("mallory") && listed.contains(&her) && listed.contains("6001"), "{listed}");

    // Both have the same proof, and it works where there is no volume, nor anything else.
    let files = [alice, bob].map(|peer| {
        let file = peer.scratch().join(format!("proof of {}", peer.name()));
        peer.run(["proof".as_ref(), "export".as_ref(), "1".as_ref(), file.as_os_str()]);
        file
    });
    let bytes = fs::read(&files[0]).unwrap();
    assert_eq!(bytes, fs::read(&files[1]).unwrap());
    let verify = |file: &Path| {
        let done = Command::new(program("p2pfs")).env_clear().args(["proof", "verify"]).arg(file).output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said, _) = verify(&files[0]);
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with(&format!("proven: device {her} signed two different commits numbered 1 in its log 6001\n"))
    );
    assert!(!said.contains("mallory") && !bytes.windows(7).any(|part| part == b"mallory"), "{said}");
    let refused = alice.refused(["proof".as_ref(), "export".as_ref(), "1".as_ref(), files[0].as_os_str()]);
    assert!(refused.contains("exists already"), "{refused}");
    assert!(alice.refused(["proof", "export", "7", "nowhere"]).contains("there is no proof 7: `p2pfs proof list`"));

    let mut touched = bytes.clone();
    *touched.last_mut().unwrap() ^= 1;
    let newer = [&bytes[..8], &[2], &bytes[9..]].concat();
    let flawed: [(&[u8], &str); 5] = [
        (&touched, "not proven: commit 2 is not what a device signed: signature does not match"),
        (&bytes[..bytes.len() - 1], "not proven: it is damaged"),
        (&newer, "not proven: it is a proof of version 2, this program knows 1"),
        (b"", "not proven: it is no proof of p2pfs"),
        (&[b'P'; 3 << 20], "not proven: it is longer than any proof"),
    ];
    for (bytes, why) in flawed {
        let file = alice.scratch().join("flawed");
        fs::write(&file, bytes).unwrap();
        let (code, said, failed) = verify(&file);
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(failed.contains(why) && failed.lines().count() == 1, "{failed}");
    }
    assert!(verify(Path::new("/dev/zero")).2.contains("longer than any proof"));
    assert!(verify(Path::new("/")).2.contains("reading /"));
}
