//! `p2pfs verify` on real stores: damage is found and told by path, never served, and repaired from peers.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use p2pfs_tests::{group::Group, peer::Peer, random::Random, tree::differences};

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The files of a peer's volume whose path has `part` in it.
fn stored(peer: &Peer, part: &str) -> Vec<PathBuf> {
    files(peer.home()).into_iter().filter(|path| path.to_str().unwrap().contains(part)).collect()
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 4;
    file.write_all_at(&byte, at).unwrap();
}

/// Where in a file these bytes are.
fn position(path: &Path, from: u64) -> u64 {
    let len = fs::metadata(path).unwrap().len();
    from.min(len - 1)
}

fn forget_pages() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn fill(group: &Group, random: &mut Random) {
    let root = group.alice().at("tree");
    for folder in 0..5 {
        fs::create_dir_all(root.join(folder.to_string())).unwrap();
        for file in 0..40 {
            let len = [10, 3_000, 20_000, 200_000][file % 4];
            fs::write(root.join(format!("{folder}/file {file}")), random.bytes(len)).unwrap();
        }
    }
    group.in_step();
}

#[test]
fn a_sound_volume_is_told_so_mounted_or_not() {
    let mut group = Group::two();
    fill(&group, &mut Random::new(1));
    assert!(group.alice().run(["verify"]).contains("no damage"));
    let report = group.alice().listing("verify");
    assert_eq!(report["damages"], 0);
    assert!(report["checked"]["contents"].as_u64().unwrap() >= 200, "{report}");
    group.peers[0].unmount();
    assert!(group.alice().run(["verify", "--repair"]).contains("no damage"));
}

#[test]
fn flipped_bits_in_contents_are_told_by_path_and_repaired_from_peers() {
    let group = Group::two();
    let mut random = Random::new(2);
    fill(&group, &mut random);
    for pack in stored(group.alice(), "/packs/") {
        for _ in 0..20 {
            // Not the header of the file: without it, it is no pack.
            let len = fs::metadata(&pack).unwrap().len();
            flip(&pack, 16 + random.below(len - 16));
        }
    }
    forget_pages();
    // The report is the result; that there is damage is the failure.
    let done = group.alice().command(["verify"]).output().unwrap();
    let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert_eq!(done.status.code(), Some(1));
    assert!(out.contains("tree/") && err.contains("verify --repair"), "{out}{err}");
    let repaired = group.alice().run(["verify", "--repair"]);
    assert!(repaired.contains("tree/") && repaired.contains("repaired"), "{repaired}");
    assert!(group.alice().run(["verify"]).contains("no damage"));
    assert_eq!(differences(group.alice().root(), group.bob().root()), Ok(()));
}

#[test]
fn what_is_damaged_is_never_served_and_comes_again_when_it_is_read() {
    let group = Group::two();
    fill(&group, &mut Random::new(3));
    for pack in stored(group.alice(), "/packs/") {
        let len = fs::metadata(&pack).unwrap().len();
        (0..len / 50_000).for_each(|at| flip(&pack, 16 + at * 50_000));
    }
    forget_pages();
    // Reading asks the peers.
    assert_eq!(differences(group.alice().root(), group.bob().root()), Ok(()));
    assert!(group.alice().run(["verify"]).contains("no damage"));
}

#[test]
fn a_damaged_store_is_built_anew_and_nothing_is_lost() {
    let mut group = Group::two();
    let mut random = Random::new(4);
    fill(&group, &mut random);
    for round in 0..4 {
        group.peers[0].unmount();
        // Tables, journals, and what the store keeps beside them.
        let parts = ["/tables/", ".jnl", "/keyspaces/", "/store/"];
        let of_kind = stored(group.alice(), parts[round]);
        let sizes = |path: &PathBuf| fs::metadata(path).unwrap().len();
        let candidates: Vec<&PathBuf> = of_kind.iter().filter(|path| sizes(path) > 0).collect();
        let path = candidates[random.below(candidates.len() as u64) as usize].clone();
        flip(&path, position(&path, random.below(sizes(&path))));
        forget_pages();
        // Found or harmless: repairing is right in both cases.
        group.alice().run(["verify", "--repair"]);
        group.peers[0].mount();
        group.in_step();
        assert!(group.alice().run(["verify"]).contains("no damage"), "{}", path.display());
        fs::write(group.alice().at(format!("after {round}")), "goes on").unwrap();
        group.in_step();
    }
}

#[test]
fn alone_with_a_damaged_journal_one_loses_no_more_than_what_stood_there() {
    let mut peer = Peer::alone();
    for file in 0..300 {
        fs::write(peer.at(format!("file {file}")), format!("content {file}")).unwrap();
        if file % 10 == 0 {
            peer.run(["status"]);
        }
    }
    peer.unmount();
    let journal = stored(&peer, ".jnl").pop().unwrap();
    let used = fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
    flip(&journal, used / 2);
    let told = peer.refused(["mount", peer.root().to_str().unwrap()]);
    assert!(told.contains("damaged") && told.contains("verify --repair"), "{told}");
    peer.run(["verify", "--repair"]);
    peer.mount();
    let found = fs::read_dir(peer.root()).unwrap().count();
    // What came before the damage is all there.
    assert!(found > 100, "{found} of 300 are left");
    let mut empty = 0;
    for entry in fs::read_dir(peer.root()).unwrap() {
        let path = entry.unwrap().path();
        let number = path.file_name().unwrap().to_str().unwrap().strip_prefix("file ").unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        empty += usize::from(text.is_empty());
        assert!(text.is_empty() || text == format!("content {number}"), "{text}");
    }
    // The last one may have been made before the damaged commit, and written in it.
    assert!(empty <= 1, "{empty} are empty");
    fs::write(peer.at("new"), "new").unwrap();
    assert!(peer.run(["verify"]).contains("no damage"));
}
