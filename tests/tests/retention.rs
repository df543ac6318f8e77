//! What is no longer kept of history goes, and its room comes back to the disk; what is kept stays whole.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use p2pfs_tests::{
    patience::{eventually, holds},
    peer::Peer,
    random::Random,
    tool::run,
};

const DAY: i64 = 86_400;
const MIB: u64 = 1 << 20;

/// Bytes that the packs take on the disk.
fn packs(folder: &Path) -> u64 {
    let mut bytes = 0;
    for found in fs::read_dir(folder).unwrap() {
        let path = found.unwrap().path();
        if path.is_dir() {
            bytes += packs(&path);
        } else if path.extension().is_some_and(|end| end == "pack") {
            bytes += path.metadata().unwrap().blocks() * 512;
        }
    }
    bytes
}

fn at(seconds: i64) -> String {
    format!(".p2pfs/at/{}", jiff::Timestamp::from_second(seconds).unwrap())
}

#[test]
fn old_versions_go_and_kept_ones_stay() {
    let mut peer = Peer::alone();
    peer.unmount();
    peer.with_clock();
    peer.clock().set(-200 * DAY);
    peer.mount();
    let mut random = Random::new(5);
    // At nine in the morning, whatever time it is: the last of each day is kept, and hours later it would be another day.
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let nine = 9 * 3600 - now % DAY;
    // A file of 8 MiB, written anew three times an hour apart on each of two days; then removed, but for a small one.
    let mut made = Vec::new();
    for day in [200, 199] {
        for hour in 0..3 {
            peer.clock().set(-day * DAY + nine + hour * 3600);
            let content = random.bytes(8 * MIB as usize);
            fs::write(peer.at("large"), &content).unwrap();
            fs::write(peer.at("small"), format!("{day} {hour}")).unwrap();
            run("sync", [peer.at("large").to_str().unwrap()]);
            // What is still in the open commit is dated when that ends.
            eventually("the commit ended", || {
                let pending = peer.listing("status")["pending"].as_u64();
                holds(pending == Some(0), || format!("{pending:?}"))
            });
            made.push((peer.clock().shows() + 60, content));
        }
    }
    peer.clock().set(-198 * DAY);
    fs::remove_file(peer.at("large")).unwrap();
    peer.run(["reclaim"]);
    let all = packs(peer.home());
    assert!(all > 48 * MIB, "{all}");
    for (time, content) in &made {
        let found = fs::read(peer.at(at(*time)).join("large")).unwrap();
        assert!(found == *content, "everything is kept for 30 days");
    }
    // Older than sixty days, the last of each day is kept.
    peer.clock().set(-100 * DAY);
    assert!(peer.refused(["reclaim"]).contains("date has jumped"));
    peer.clock().set(-99 * DAY);
    let said = peer.run(["reclaim"]);
    assert!(said.contains("gave back 3"), "{said}");
    assert!(said.contains("; of what is older than 30d, ") && said.contains(" kept"), "{said}");
    let left = packs(peer.home());
    assert!(left > 16 * MIB && left < 18 * MIB, "{left}");
    for remounted in [false, true] {
        if remounted {
            peer.remount();
        }
        for (place, (time, content)) in made.iter().enumerate() {
            // What is asked for in between shows the last that is kept.
            let shown = match place {
                0..2 => continue,
                2 => Some(content),
                3 | 4 => Some(&made[2].1),
                _ => Some(content),
            };
            assert!(fs::read(peer.at(at(*time)).join("large")).ok().as_ref() == shown, "{place}");
        }
        assert!(!peer.at(at(made[0].0)).exists());
        assert_eq!(fs::read_to_string(peer.at("small")).unwrap(), "199 2");
    }
    peer.run(["verify"]);
}
