//! Members that send without end, and strangers that do: the mount works on, the others keep syncing, the daemon stays
//! small, who floods is shut out, and the log tells.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crypto::Hash;
use p2pfs_tests::{
    group::Group,
    patience::eventually,
    process::peak_memory_mib,
    random::Random,
    rogue::{Rogue, stranger},
    setting,
};
use peer_net::{frame, identity::Protocol};
use volume::{Message, id::CommitHash, sync::Tip};

/// The most memory that alice's daemon may ever have had, in MiB, whatever is sent to it.
const MEMORY_MIB: u64 = 256;
/// How long saving a file and reading it may take meanwhile, on a busy machine.
const NORMAL: Duration = Duration::from_secs(5);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Alice and bob work together as always, for so many rounds and at least until `done`.
fn work_goes_on(group: &Group, rounds: usize, done: &AtomicBool) {
    let mut round = 0;
    while round < rounds || !done.load(Ordering::Relaxed) {
        let (name, content) = (format!("round {round}"), vec![round as u8; 200_000]);
        let start = Instant::now();
        fs::write(group.alice().at(&name), &content).unwrap();
        assert!(fs::read(group.alice().at(&name)).unwrap() == content);
        let took = start.elapsed();
        assert!(took < NORMAL, "saving and reading took {took:?}");
        eventually("bob has it", || match fs::read(group.bob().at(&name)) {
            Ok(read) if read == content => Ok(()),
            Ok(read) => Err(format!("{} other bytes", read.len())),
            Err(e) => Err(e.to_string()),
        });
        fs::write(group.bob().at(&name), b"bob was here").unwrap();
        eventually("alice has his", || match fs::read(group.alice().at(&name)) {
            Ok(read) if read == b"bob was here" => Ok(()),
            Ok(read) => Err(format!("{} other bytes", read.len())),
            Err(e) => Err(e.to_string()),
        });
        round += 1;
    }
}

/// Sets its flag at any rate.
struct SetAtEnd(Arc<AtomicBool>);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn some_hash(number: u64) -> CommitHash {
    CommitHash::from_bytes(*Hash::of(crypto::Label::TicketToken, &[&number.to_le_bytes()]).as_bytes())
}

fn made_up_tips(count: u64, from: u64) -> Message {
    let tip =
        |n| Tip { device: crypto::DeviceId::from_bytes(*some_hash(n).as_bytes()), log: n, seq: n, hash: some_hash(n) };
    Message::Tips((from..from + count).map(tip).collect())
}

/// What one flooder sends, the `n`th time.
fn junk(kind: &str, n: u64) -> Message {
    match kind {
        "tips" => made_up_tips(20_000, n),
        "wants" => Message::Want(some_hash(n)),
        "flushes" => Message::Flush(n),
        "states" => Message::State {
            digest: Hash::of(crypto::Label::TicketToken, &[&n.to_le_bytes()]),
            complete: false,
            commits: 1,
        },
        other => panic!("{other}"),
    }
}

/// Sends one kind of thing until she is thrown out.
async fn floods_with(rogue: &Rogue, at: SocketAddr, kind: &str) {
    let mut line = rogue.connect(at).await;
    let mut n = 0;
    while line.say(&junk(kind, n)).await {
        n += 1;
    }
    println!("{kind}: thrown out after {n}");
}

/// Sends commits that build on one that she keeps back, over and over.
async fn floods_with_orphans(rogue: &Rogue, at: SocketAddr) {
    rogue.commits(3000);
    let mut line = rogue.connect(at).await;
    let mut all = rogue.all_commits();
    let orphans: Vec<_> = all.split_off(all.len() - 2999);
    'out: loop {
        for commits in orphans.chunks(200) {
            if !line.say(&Message::Commits(commits.to_vec())).await {
                break 'out;
            }
        }
    }
    println!("orphans: thrown out");
}

#[test]
fn members_that_flood_are_shut_out_and_cost_little() {
    let group = Group::two();
    let alice = group.alice();
    let at: SocketAddr = alice.listens_at().parse().unwrap();
    let runtime = runtime();
    let kinds = ["tips", "wants", "flushes", "states", "orphans", "garbage"];
    let rogues: Vec<Arc<Rogue>> = kinds
        .iter()
        .map(|kind| Arc::new(runtime.block_on(Rogue::join(&alice.invite(), &format!("mallory-{kind}")))))
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = kinds
        .iter()
        .zip(&rogues)
        .map(|(kind, rogue)| {
            let (kind, rogue) = (*kind, rogue.clone());
            runtime.spawn(async move {
                match kind {
                    "orphans" => floods_with_orphans(&rogue, at).await,
                    "garbage" => {
                        let mut line = rogue.connect(at).await;
                        while frame::write_frame(&mut line.send, &[7; 100_000]).await.is_ok() {}
                    }
                    kind => floods_with(&rogue, at, kind).await,
                }
            })
        })
        .collect();
    let ended = SetAtEnd(done.clone());
    let waiting = runtime.spawn(async move {
        let _ended = ended;
        for flood in floods {
            tokio::time::timeout(Duration::from_secs(60), flood).await.expect("still connected").unwrap();
        }
    });
    work_goes_on(&group, 3, &done);
    runtime.block_on(waiting).unwrap();
    let log = alice.log_text();
    for (kind, rogue) in kinds.iter().zip(&rogues) {
        let told = format!("device {}: disconnected: misbehaved", rogue.short());
        assert!(log.contains(&told), "{kind}: no {told:?} in\n{log}");
    }
    // For a while they are not even listened to.
    assert!(runtime.block_on(rogues[0].is_refused(at)), "she may not come back at once");
    let peak = peak_memory_mib(alice.pid());
    println!("peak {peak} MiB");
    assert!(peak < MEMORY_MIB, "{peak} MiB");
    assert_eq!(alice.connected(), 1, "bob is still there");
    group.in_step();
}

/// Asks for blocks on all streams there may be and never reads an answer.
#[test]
fn who_asks_without_reading_costs_a_bounded_amount() {
    let group = Group::two();
    let alice = group.alice();
    let at: SocketAddr = alice.listens_at().parse().unwrap();
    let mut random = Random::new(1);
    for number in 0..40 {
        fs::write(alice.at(format!("block {number}")), random.bytes(60_000)).unwrap();
    }
    group.in_step();
    let runtime = runtime();
    let rogue = runtime.block_on(Rogue::join(&alice.invite(), "mallory"));
    let done = AtomicBool::new(false);
    let _line = runtime.block_on(async {
        let line = rogue.connect(at).await;
        let session = rogue.to_founder();
        let blocks = session.wanted(32);
        assert_eq!(blocks.len(), 32);
        let mut request = vec![1, blocks.len() as u8];
        blocks.iter().for_each(|block| request.extend_from_slice(block.as_bytes()));
        let mut asked = 0;
        loop {
            let open = line.connection.open_bi();
            let Ok(Ok((mut send, receive))) = tokio::time::timeout(Duration::from_millis(500), open).await else {
                break;
            };
            send.write_all(&request).await.unwrap();
            send.finish().unwrap();
            // Neither read nor given up.
            std::mem::forget(receive);
            asked += 1;
        }
        println!("{asked} requests");
        assert!((8..100).contains(&asked), "{asked} requests were taken, unread answers of 2 MB each");
        line
    });
    done.store(true, Ordering::Relaxed);
    work_goes_on(&group, 5, &done);
    let peak = peak_memory_mib(alice.pid());
    println!("peak {peak} MiB");
    assert!(peak < MEMORY_MIB, "{peak} MiB");
}

/// Strangers open connections and say nothing, say nonsense, or never finish; others send packets that are none.
#[test]
fn strangers_that_flood_cost_little() {
    let group = Group::two();
    let alice = group.alice();
    let at: SocketAddr = alice.listens_at().parse().unwrap();
    let runtime = runtime();
    let done = Arc::new(AtomicBool::new(false));
    let seconds = setting("P2PFS_TEST_FLOOD_SECONDS", 4);
    let idle = done.clone();
    for _ in 0..32 {
        let done = idle.clone();
        runtime.spawn(async move {
            let endpoint = stranger();
            while !done.load(Ordering::Relaxed) {
                let Ok(connection) = endpoint.connect(at, Protocol::Peer, None).await else { continue };
                let Ok((mut send, _receive)) = connection.open_bi().await else { continue };
                // Some say nothing more, some that a great deal is to come.
                let _ = send.write_all(&[0xff; 3]).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let raw = done.clone();
    let packets = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut random = Random::new(7);
        while !raw.load(Ordering::Relaxed) {
            for _ in 0..100 {
                let len = 20 + random.below(1200) as usize;
                let mut bytes = random.bytes(len);
                // The header of a first packet, or anything.
                bytes[0] |= 0xc0;
                bytes[1..5].copy_from_slice(&[0, 0, 0, 1]);
                let _ = socket.send_to(&bytes, at);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let timer = done.clone();
    let clock = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds));
        timer.store(true, Ordering::Relaxed);
    });
    work_goes_on(&group, 3, &done);
    clock.join().unwrap();
    packets.join().unwrap();
    runtime.shutdown_background();
    let peak = peak_memory_mib(alice.pid());
    println!("peak {peak} MiB");
    assert!(peak < MEMORY_MIB, "{peak} MiB");
    let log = alice.log_text().len();
    assert!(log < 100_000, "a log of {log} bytes");
    assert_eq!(alice.connected(), 1, "bob is still there");
    group.in_step();
}
