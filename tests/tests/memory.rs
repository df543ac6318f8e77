//! How much memory a daemon takes, whatever programs do to it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
};

use p2pfs_tests::{mapping::Mapping, peer::Peer, process::peak_memory_mib, random::Random, setting};

/// The bound that docs/semantics.md states, in MiB.
const BOUND_MIB: u64 = 384;

fn within_bound(peer: &Peer, what: &str) {
    let peak = peak_memory_mib(peer.pid());
    println!("{what}: peak {peak} MiB");
    assert!(peak < BOUND_MIB, "{what}: {peak} MiB");
}

#[test]
fn memory_has_a_bound_whatever_is_open_written_and_listed() {
    let mut random = Random::seeded();
    let mut peer = Peer::alone();
    // Thousands of files that are open, written, and not closed.
    let open: Vec<(File, Vec<u8>)> = (0..setting("P2PFS_TEST_OPEN", 3000) as usize)
        .map(|number| {
            let content = random.bytes(1000 + (number % 40) * 1000);
            let mut file = File::create(peer.at(format!("open {number}"))).unwrap();
            file.write_all(&content).unwrap();
            (file, content)
        })
        .collect();
    within_bound(&peer, "thousands of open files");
    // One huge sparse file, written all over.
    let sparse = File::options().read(true).write(true).create_new(true).open(peer.at("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let places: Vec<u64> = (0..2000).map(|_| random.below((1 << 40) - 8)).collect();
    for place in &places {
        sparse.write_all_at(&place.to_le_bytes(), *place).unwrap();
    }
    sparse.sync_all().unwrap();
    within_bound(&peer, "a sparse file");
    // A large directory.
    fs::create_dir(peer.at("many")).unwrap();
    let entries = setting("P2PFS_TEST_FILES", 10_000);
    for number in 0..entries {
        File::create(peer.at(format!("many/entry {number}"))).unwrap();
    }
    assert_eq!(fs::read_dir(peer.at("many")).unwrap().count() as u64, entries);
    within_bound(&peer, "a large directory");
    // A large mapping, every page of it stored to.
    let len = 256 << 20;
    let mapped = File::options().read(true).write(true).create_new(true).open(peer.at("mapped")).unwrap();
    mapped.set_len(len as u64).unwrap();
    let mut mapping = Mapping::new(&mapped, len).unwrap();
    for page in (0..len).step_by(4096) {
        mapping.store(page, &[(page / 4096) as u8]);
    }
    mapping.sync();
    drop(mapping);
    within_bound(&peer, "a large mapping");
    // Nothing is lost of all that, over the daemon's death.
    for (number, (file, content)) in open.into_iter().enumerate() {
        drop(file);
        assert!(fs::read(peer.at(format!("open {number}"))).unwrap() == content, "open {number}");
    }
    drop((sparse, mapped));
    within_bound(&peer, "closing");
    peer.kill9();
    peer.mount();
    let sparse = File::open(peer.at("sparse")).unwrap();
    for place in places {
        let mut bytes = [0; 8];
        sparse.read_exact_at(&mut bytes, place).unwrap();
        assert!(u64::from_le_bytes(bytes) == place, "at {place}");
    }
    let mapped = File::open(peer.at("mapped")).unwrap();
    for page in (0..len).step_by(4096 * 97) {
        let mut byte = [0; 1];
        mapped.read_exact_at(&mut byte, page as u64).unwrap();
        assert_eq!(byte[0], (page / 4096) as u8, "page at {page}");
    }
    within_bound(&peer, "reading after a restart");
}

#[test]
fn a_daemon_runs_with_the_settings_of_its_allocator() {
    let ours = b"GLIBC_TUNABLES=glibc.malloc.tcache_count=128".as_slice();
    let has = |pid: &str, line: &[u8]| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|known| known == line)
    };
    let mut peer = Peer::alone();
    assert!(has(&peer.pid().to_string(), ours), "in the foreground");
    peer.unmount();
    peer.run([OsStr::new("mount"), peer.root().as_os_str()]);
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let background = |pid: &String| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let of_peer = format!("P2PFS_HOME={}", peer.home().display());
        command.ends_with(b"--background-child\0") && has(pid, of_peer.as_bytes())
    };
    let daemons: Vec<String> = processes.filter(background).collect();
    assert_eq!(daemons.len(), 1);
    assert!(has(&daemons[0], ours), "in the background");
    peer.run([OsStr::new("unmount"), peer.root().as_os_str()]);
}
