//! A keeper as people run it: two members who are never online together have everything through it, and it can read nothing.

use std::{ffi::OsStr, fs, path::Path, sync::Arc};

use p2pfs_tests::{
    patience::{eventually, holds},
    peer::Peer,
    registry::Registry,
    scraper::{free_address, scrape},
    scratch::Scratch,
};

/// In every name, content, target and attribute.
const SECRET: &str = "Quetzalcoatl-plaintext";
const LARGE: usize = 3 << 20;

struct Three {
    alice: Peer,
    bob: Peer,
    keeper: Peer,
    _registry: Registry,
    // Last: everything above is in it.
    _scratch: Arc<Scratch>,
}

/// Alice founded the volume and is mounted; the others have joined it.
fn three() -> Three {
    let scratch = Arc::new(Scratch::new());
    let registry = Registry::start(&scratch);
    let [mut alice, bob, keeper] = ["alice", "bob", "keeper"].map(|name| Peer::new(&scratch, name));
    alice.init(&["--registry", registry.address()]);
    alice.mount();
    bob.join(&alice.invite());
    let ticket = alice.run(["invite", "--role", "keeper"]);
    let said = keeper.run(["join", &ticket, "--name", "keeper", "--no-passphrase"]);
    assert!(said.contains("as keeper\nnext: `p2pfs keeper` stores and serves it"), "{said}");
    Three { alice, bob, keeper, _registry: registry, _scratch: scratch }
}

fn large() -> Vec<u8> {
    SECRET.bytes().cycle().take(LARGE).collect()
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| *b == first) {
        from += at + 1;
        if bytes[from..].starts_with(&needle[1..]) {
            return true;
        }
    }
    false
}

/// Looks for anything readable in every file below a folder, and in every name; how many bytes there were.
fn search(folder: &Path) -> usize {
    let mut total = 0;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        assert!(!contains(path.as_os_str().as_encoded_bytes(), SECRET.as_bytes()), "{}", path.display());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            total += search(&path);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            assert!(!contains(&bytes, SECRET.as_bytes()), "in {}", path.display());
            total += bytes.len();
        }
    }
    total
}

#[test]
fn two_who_are_never_online_together_have_everything_and_the_keeper_reads_nothing() {
    let mut three = three();
    let Three { alice, bob, keeper, .. } = &mut three;
    let name = |of: &str| format!("{SECRET} {of}");
    fs::create_dir(alice.at(name("folder"))).unwrap();
    fs::write(alice.at(name("folder")).join(name("small")), SECRET).unwrap();
    fs::write(alice.at(name("large")), large()).unwrap();
    std::os::unix::fs::symlink(name("target"), alice.at(name("link"))).unwrap();
    xattr::set(alice.at(name("large")), format!("user.{SECRET}"), SECRET.as_bytes()).unwrap();
    keeper.keep();
    alice.await_connected(1);
    alice.wait();
    alice.unmount();
    bob.mount();
    bob.await_connected(1);
    eventually("bob has what alice made", || match fs::read(bob.at(name("large"))) {
        Ok(bytes) if bytes == large() => Ok(()),
        other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
    });
    assert_eq!(fs::read_to_string(bob.at(name("folder")).join(name("small"))).unwrap(), SECRET);
    assert_eq!(fs::read_link(bob.at(name("link"))).unwrap().to_str().unwrap(), name("target"));
    assert_eq!(xattr::get(bob.at(name("large")), format!("user.{SECRET}")).unwrap().unwrap(), SECRET.as_bytes());
    fs::write(bob.at(name("of bob")), [large(), large()].concat()).unwrap();
    bob.wait();
    bob.unmount();

    // What the keeper says of itself, and what it refuses.
    let status = keeper.listing("status");
    assert_eq!((&status["role"], &status["serving"]), (&"keeper".into(), &true.into()), "{status}");
    assert!(status["used"].as_u64().unwrap() > 3 * LARGE as u64 && status["quota"].is_null(), "{status}");
    let text = keeper.run(["status"]);
    assert!(text.contains("keeper      serves it, and can't read it") && text.contains("you         keeper, keeper"));
    assert_eq!(keeper.listing("verify")["damages"], 0);
    assert!(!keeper.run(["users"]).contains("alice"));
    assert!(keeper.refused(["mount"]).contains("is already kept by process"));
    assert!(keeper.refused(["conflicts"]).contains("without being able to read it"));
    assert!(keeper.refused(["invite"]).contains("only the owner and admins invite"));

    // A restart, as a service manager does it; then alice comes back, and bob is away.
    keeper.terminate();
    assert!(keeper.run(["status"]).contains("does not run"));
    let refused = keeper.refused(["mount"]);
    assert_eq!(refused, "p2pfs: this device keeps the volume without being able to read it: run `p2pfs keeper`");
    keeper.keep();
    alice.mount();
    alice.await_connected(1);
    eventually("alice has what bob made", || match fs::read(alice.at(name("of bob"))) {
        Ok(bytes) if bytes == [large(), large()].concat() => Ok(()),
        other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
    });
    assert!(alice.refused(["grant", "keeper", "reader"]).contains("keeper is a keeper"));
    alice.unmount();
    keeper.stop_keeping(&[]);
    let held = search(keeper.home());
    assert!(held > 3 * LARGE, "{held} bytes");
    assert!(!contains(keeper.log_text().as_bytes(), SECRET.as_bytes()));
}

#[test]
fn a_keeper_within_a_quota_says_so_and_goes_on_with_commits() {
    let mut three = three();
    let Three { alice, keeper, .. } = &mut three;
    keeper.set_options(&["--quota", "1MiB"]);
    keeper.keep();
    alice.await_connected(1);
    fs::write(alice.at("large"), large()).unwrap();
    fs::write(alice.at("more"), large()).unwrap();
    let reached = |keeper: &Peer| {
        let (status, commits) = (keeper.listing("status"), alice.listing("status")["commits"].clone());
        holds(status["quota_reached"] == true && status["commits"] == commits, || status.to_string())
    };
    eventually("the keeper has the commits, and says that it is full", || reached(keeper));
    assert!(keeper.run(["status"]).contains("quota       reached: commits are kept"));
    assert!(keeper.log_text().contains("contents are not fetched"), "{}", keeper.log_text());
    keeper.stop_keeping(&[]);
    keeper.set_options(&["--quota", "20GiB"]);
    keeper.keep();
    eventually("the keeper has the contents as well", || {
        let status = keeper.listing("status");
        let here = status["wanted_blocks"] == 0 && status["used"].as_u64() > Some(2 * LARGE as u64);
        holds(here && status["quota_reached"] == false, || status.to_string())
    });
    alice.wait();
}

#[test]
fn who_keeps_nothing_is_told_so() {
    let Three { bob, .. } = &three();
    assert!(bob.refused(["keeper"]).contains("this device is no keeper of any volume here"));
    let id = bob.listing("volumes")[0]["id"].as_str().unwrap()[..8].to_owned();
    let refused = bob.refused(["keeper", "--volume", &id]);
    assert!(refused.contains("this device is no keeper of volume"), "{refused}");
}

#[test]
fn one_keeper_serves_several_volumes() {
    let scratch = Arc::new(Scratch::new());
    let [mut alice, mut bob, mut keeper] = ["alice", "bob", "keeper"].map(|name| Peer::new(&scratch, name));
    for (founder, label) in [(&mut alice, "of-alice"), (&mut bob, "of-bob")] {
        founder.init(&[]);
        founder.mount();
        let ticket = founder.run(["invite", "--role", "keeper"]);
        keeper.run(["join", &ticket, "--name", "keeper", "--no-passphrase", "--volume", label]);
        fs::write(founder.at("large"), large()).unwrap();
    }
    // Any ports: nobody knows whether the next one is free.
    keeper.set_port(0);
    let metrics = free_address();
    keeper.set_options(&["--metrics", &metrics.to_string()]);
    keeper.keep();
    for founder in [&alice, &bob] {
        founder.await_connected(1);
        founder.wait();
    }
    for label in ["of-alice", "of-bob"] {
        let status = keeper.run(["status", "--volume", label]);
        assert!(status.contains("serves it") && status.contains("peers       1 of 1 connected"), "{status}");
    }
    let page = scrape(metrics);
    assert!(!page.families.contains_key("p2pfs_fuse_requests_total"), "it has no mount");
    assert_eq!(page.sum("p2pfs_peers_connected", &[]), 2.0);
    for volume in keeper.listing("volumes").as_array().unwrap() {
        let label = format!("volume=\"{}\"", &volume["id"].as_str().unwrap()[..8]);
        assert_eq!(page.sum("p2pfs_devices", &[&label]), 2.0, "{label}: {page:?}");
        assert!(page.sum("p2pfs_store_used_bytes", &[&label]) > LARGE as f64, "{label}: {page:?}");
    }
    keeper.stop_keeping(&["--volume", "of-bob"]);
    for label in ["of-alice", "of-bob"] {
        assert!(keeper.run(["status", "--volume", label]).contains("does not run"));
    }
    // One of them alone.
    keeper.set_options(&["--volume", "of-alice"]);
    keeper.keep();
    alice.await_connected(1);
    bob.await_connected(0);
}

#[test]
fn paths_lie_in_mounts_and_not_in_what_is_kept_beside_them() {
    let Three { mut keeper, _scratch: scratch, _registry, .. } = three();
    keeper.keep();
    let mut own = Peer::with_home(&scratch, "own", keeper.home().to_owned());
    own.run(["init", "--name", "own", "--volume", "own", "--no-passphrase"]);
    own.set_options(&["--volume", "own"]);
    own.mount();
    fs::write(own.at("plan"), "meet at noon").unwrap();
    let told = own.run([OsStr::new("access"), own.at("plan").as_os_str()]);
    assert!(told.contains("own"), "{told}");
    let elsewhere = own.refused([OsStr::new("access"), scratch.path().as_os_str()]);
    assert!(elsewhere.contains("lies in no mounted volume"), "{elsewhere}");
    own.unmount();
    keeper.stop_keeping(&[]);
}

#[test]
fn a_volume_that_does_not_open_is_left_alone() {
    let Three { mut keeper, _scratch: scratch, _registry, .. } = three();
    let break_one = |peer: &Peer| {
        peer.run(["init", "--name", "own", "--volume", "own", "--no-passphrase"]);
        let volumes = peer.listing("volumes");
        let own = volumes.as_array().unwrap().iter().find(|volume| volume["volume"] == "own").unwrap();
        let folder = peer.home().join("volumes").join(&own["id"].as_str().unwrap()[..16]);
        for name in ["format", "format.copy"] {
            fs::write(folder.join(name), "999\n").unwrap();
        }
    };
    break_one(&keeper);
    keeper.keep();
    assert!(keeper.log_text().contains("is left alone: volume"), "{}", keeper.log_text());
    assert!(keeper.log_text().contains("format version 999"), "{}", keeper.log_text());
    keeper.stop_keeping(&[]);
    // Where there is no other, that is why it ends.
    let nothing = Peer::new(&scratch, "nothing");
    break_one(&nothing);
    let done = nothing.command(["keeper"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.lines().last().unwrap().contains("format version 999"), "{said}");
}
