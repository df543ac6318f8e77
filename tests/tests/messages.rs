//! Messages between members, with real daemons: `p2pfs msg`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use p2pfs_tests::{
    group::Group,
    patience::{eventually, holds},
    peer::Peer,
};
use serde_json::Value;

fn list(peer: &Peer, more: &[&str]) -> Vec<Value> {
    let said = peer.run(["msg", "list", "--json"].iter().chain(more));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(peer: &Peer, more: &[&str]) -> Vec<String> {
    list(peer, more).iter().map(|letter| letter["text"].as_str().unwrap().to_owned()).collect()
}

fn await_texts(peer: &Peer, expected: &[&str]) {
    eventually(&format!("{} has its messages", peer.name()), || {
        let texts = texts(peer, &[]);
        holds(texts == expected, || format!("{texts:?}"))
    });
}

fn unread(peer: &Peer) -> u64 {
    peer.listing("status")["unread"].as_u64().unwrap()
}

/// Seconds since 1970 of a time in JSON.
fn seconds(time: &Value) -> f64 {
    time["secs"].as_f64().unwrap() + time["nanos"].as_f64().unwrap() / 1e9
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// `p2pfs msg list --follow`, until it is dropped.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_message_is_there_at_once() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    group.in_step();
    let mut command = bob.command(["msg", "list", "--follow", "--json"]);
    let mut follower = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let (mut between, mut in_all) = (Vec::new(), Vec::new());
    for n in 0..30 {
        let start = Instant::now();
        alice.run(["msg", "send", "bob", &format!("message {n}")]);
        let letter: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        in_all.push(start.elapsed().as_secs_f64());
        assert_eq!((letter["text"].as_str(), letter["from"].as_str()), (Some(&*format!("message {n}")), Some("alice")));
        between.push(seconds(&letter["came"]) - seconds(&letter["sent"]));
    }
    let (between, in_all) = (median(between) * 1e3, median(in_all) * 1e3);
    println!("from one daemon to the other {between:.1} ms, with the commands at both ends {in_all:.1} ms");
    assert!(between < 200.0, "{between} ms");
}

#[test]
fn messages_wait_for_who_is_away_and_are_found_again() {
    let mut group = Group::two();
    group.in_step();
    group.peers[1].kill9();
    let said = group.alice().run(["msg", "send", "bob", "are", "you", "there?"]);
    assert!(said.contains("1 device"), "{said}");
    let mut send = group.alice().command(["msg", "send", "@all", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    send.stdin.take().unwrap().write_all("two lines\n\u{1b}[2Jof Ünsinn\n".as_bytes()).unwrap();
    assert!(send.wait().unwrap().success());
    for n in 0..200 {
        group.alice().run(["msg", "send", "bob", &n.to_string()]);
    }
    assert_eq!(list(group.alice(), &[])[0]["waiting"], 1);
    group.peers[0].kill9();
    group.peers[0].mount();
    group.peers[1].mount();
    let mut expected = vec!["are you there?".to_owned(), "two lines\n\u{1b}[2Jof Ünsinn".to_owned()];
    expected.extend((0..200).map(|n| n.to_string()));
    let (alice, bob) = (group.alice(), group.bob());
    await_texts(bob, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    eventually("alice knows", || {
        let waiting = list(alice, &[]).iter().filter(|letter| letter["waiting"] != 0).count();
        holds(waiting == 0, || format!("{waiting} wait"))
    });
    assert_eq!(unread(bob), 202);
    assert_eq!(unread(alice), 0);
    assert_eq!(texts(bob, &["--search", "üNSINN"]), [expected[1].as_str()]);
    assert_eq!(texts(bob, &["--with", "@all"]).len(), 1);
    assert_eq!(texts(bob, &["--with", "alice", "-n", "2"]), ["198", "199"]);
    let shown = bob.run(["msg", "list", "--search", "lines"]);
    assert!(!shown.contains('\u{1b}') && shown.contains("\n    \\u{1b}[2Jof Ünsinn"), "{shown}");
    assert_eq!(unread(bob), 202, "no terminal has shown them");
    assert!(bob.run(["msg", "read", "1", "2"]).contains("2 messages read"));
    assert_eq!(texts(bob, &["--unread"]).len(), 200);
    assert!(bob.run(["status"]).contains("200 unread"));
    bob.run(["msg", "read"]);
    assert_eq!(unread(bob), 0);
    let log = bob.run(["log", "--op", "message"]);
    assert!(log.contains("alice") && log.contains("came for all members") && !log.contains("there?"), "{log}");
}

#[test]
fn nobody_else_gets_them_and_who_was_removed_sends_none() {
    let mut group = Group::three();
    group.add_as("ken", "reader");
    group.in_step();
    let (alice, bob, carol) = (group.alice(), group.bob(), group.carol());
    let start = Instant::now();
    alice.run(["msg", "send", "bob", "between us"]);
    await_texts(bob, &["between us"]);
    bob.run(["msg", "send", "@all", "hello"]);
    for other in [carol, &group.peers[3]] {
        await_texts(other, &["hello"]);
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(alice.refused(["msg", "send", "dora", "x"]).contains("no member `dora`"));
    assert!(alice.refused(["msg", "send", "bob", ""]).contains("empty"));
    assert!(alice.refused(["msg", "send", "bob", &"x".repeat(17_000)]).contains("16 KiB"));
    alice.run(["revoke", "carol"]);
    assert!(alice.refused(["msg", "send", "carol", "x"]).contains("was removed"));
    eventually("carol's device knows", || {
        let removed = carol.listing("status")["removed"].as_bool();
        holds(removed == Some(true), || format!("{removed:?}"))
    });
    assert!(carol.refused(["msg", "send", "bob", "still here"]).contains("no member"));
    alice.run(["msg", "send", "@all", "without carol"]);
    await_texts(bob, &["between us", "hello", "without carol"]);
    assert_eq!(texts(carol, &[]), ["hello"]);
}

/// `p2pfs chat` on a terminal.
struct Terminal {
    program: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn chat(peer: &Peer, with: &str) -> Self {
        let program = peer.command(["chat"]).get_program().to_string_lossy().into_owned();
        let mut script = Command::new("script");
        script.args(["-qec", &format!("stty cols 100 rows 30; exec '{program}' chat {with}"), "/dev/null"]);
        script.env("P2PFS_HOME", peer.home()).env("TERM", "xterm");
        let mut program = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (shown, mut output) = (Arc::new(Mutex::new(Vec::new())), program.stdout.take().unwrap());
        let kept = shown.clone();
        thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut some) {
                kept.lock().unwrap().extend_from_slice(&some[..count]);
            }
        });
        Self { program, shown }
    }

    fn types(&mut self, keys: &str) {
        self.program.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for a word. (Between words only the cursor moves, and so it does past letters that stood there before.)
    fn await_word(&self, word: &str) {
        eventually(&format!("{word} is shown"), || {
            let shown = self.shown.lock().unwrap();
            holds(shown.windows(word.len()).any(|part| part == word.as_bytes()), || {
                String::from_utf8_lossy(&shown).escape_debug().to_string()
            })
        });
    }

    fn ends(mut self) -> bool {
        self.program.wait().unwrap().success()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended is gone already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn two_talk_on_their_terminals() {
    let mut group = Group::two();
    group.alice().run(["msg", "send", "bob", "earlier"]);
    await_texts(group.bob(), &["earlier"]);
    let mut bob = Terminal::chat(group.bob(), "alice");
    let mut alice = Terminal::chat(group.alice(), "bob");
    bob.await_word("earlier");
    eventually("what is shown is read", || holds(unread(group.bob()) == 0, || unread(group.bob()).to_string()));
    bob.types("GOODMORNING\r");
    alice.await_word("GOODMORNING");
    alice.types("0000000\r");
    bob.await_word("0000000");
    await_texts(group.alice(), &["earlier", "GOODMORNING", "0000000"]);
    alice.types("\u{1b}");
    assert!(alice.ends(), "left");
    // Not left, and nothing to talk through any more.
    group.peers[1].unmount();
    bob.await_word("mounted");
    assert!(!bob.ends());
    assert!(group.alice().refused(["chat"]).contains("p2pfs msg"));
}
