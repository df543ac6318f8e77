//! Ordinary programs on a shared tree: what one side's tools leave, the other side's tools find sound.

use std::fs;

use p2pfs_tests::{
    group::Group,
    peer::Peer,
    setting,
    tool::{git, run, shell, succeed},
    tree::{self, grow},
};

fn files() -> u64 {
    setting("P2PFS_TEST_FILES", 3000)
}

/// The checksum of every file, by a program that knows nothing of us.
fn checksums(peer: &Peer, folder: &str) -> String {
    shell(&peer.at(folder), "find . -type f -print0 | sort -z | xargs -0 sha256sum")
}

#[test]
fn a_git_repository_is_worked_on_from_both_sides() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    let ours = alice.at("repository");
    fs::create_dir(&ours).unwrap();
    git(&ours, &["init", "-q"]);
    grow(&ours.join("source"), files(), 1);
    git(&ours, &["add", "."]);
    git(&ours, &["commit", "-qm", "first"]);
    group.in_step();

    let theirs = bob.at("repository");
    git(&theirs, &["fsck", "--strict", "--full"]);
    assert_eq!(git(&theirs, &["status", "--porcelain"]), "", "bob's tree is what was committed");
    // To look is to write, for git: it refreshes its index.
    group.in_step();
    assert_eq!(checksums(alice, "repository"), checksums(bob, "repository"));

    git(&theirs, &["checkout", "-q", "-b", "work"]);
    fs::write(theirs.join("from bob"), "content").unwrap();
    git(&theirs, &["add", "."]);
    git(&theirs, &["commit", "-qm", "second"]);
    git(&theirs, &["gc", "-q", "--prune=now"]);
    group.in_step();
    git(&ours, &["fsck", "--strict", "--full"]);
    assert_eq!(git(&ours, &["status", "--porcelain"]), "");
    assert_eq!(git(&ours, &["log", "--format=%s"]), "second\nfirst\n");
    git(&ours, &["checkout", "-q", "main"]);
    assert!(!ours.join("from bob").exists());
    git(&ours, &["merge", "-q", "work"]);
    group.in_step();
    assert_eq!(fs::read(theirs.join("from bob")).unwrap(), b"content");
    assert_eq!(git(&theirs, &["status", "--porcelain"]), "");
}

#[test]
fn rsync_finds_nothing_left_to_do() {
    let group = Group::two();
    let source = group.alice().scratch().join("source");
    grow(&source, files() / 3, 2);
    // Both are to change it, and what it is a copy of has no lists.
    shell(&source, "chmod -R g=u .");
    shell(group.alice().root(), "mkdir copy; setfacl -b -k copy");
    let from = format!("{}/", source.display());
    let sync = |peer: &Peer, more: &str| {
        let to = format!("{}/", peer.at("copy").display());
        // Folders' times are each machine's own.
        run("rsync", ["-aH", "--omit-dir-times", "--itemize-changes", more, &from, &to])
    };
    sync(group.alice(), "--quiet");
    tree::differences(&source, &group.alice().at("copy")).unwrap();
    group.in_step();
    for peer in &group.peers {
        assert_eq!(sync(peer, "--checksum"), "", "at {}", peer.name());
    }
    shell(&source, "rm -r \"$(ls -d folder* | head -1)\"; echo more >more");
    sync(group.bob(), "--delete");
    group.in_step();
    tree::differences(&source, &group.alice().at("copy")).unwrap();
}

#[test]
fn an_archive_is_unpacked_here_and_packed_there() {
    let group = Group::two();
    let source = group.alice().scratch().join("source");
    grow(&source, files() / 3, 3);
    let archive = group.alice().scratch().join("a.tar");
    let archive = archive.display();
    shell(&source, &format!("tar --format=posix -cf {archive} ."));
    fs::create_dir(group.alice().at("d")).unwrap();
    shell(&group.alice().at("d"), &format!("tar -xpf {archive}"));
    group.in_step();
    let back = group.alice().scratch().join("back");
    fs::create_dir(&back).unwrap();
    shell(&group.bob().at("d"), &format!("tar --format=posix -cf - . | tar -xpf - -C {}", back.display()));
    tree::differences(&source, &back).unwrap();
}

/// Runs a statement in the database on a peer's mount.
fn sql(peer: &Peer, statement: &str) -> String {
    run("sqlite3", [peer.at("base.db").to_str().unwrap(), statement])
}

fn a_database(mode: &str) {
    const ROWS: usize = 200;
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    sql(alice, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT);"));
    // SQLite makes its files for one user to write, whatever the folder says.
    shell(alice.root(), "chmod g+w base.db");
    for row in 0..ROWS {
        sql(alice, &format!("INSERT INTO t (text) VALUES ('row {row}');"));
    }
    let bulk = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<20000)
        INSERT INTO t (text) SELECT 'bulk ' || n FROM c;";
    sql(alice, bulk);
    group.in_step();
    let count = (ROWS + 20_000).to_string();
    assert_eq!(sql(bob, "PRAGMA integrity_check;").trim(), "ok");
    assert_eq!(sql(bob, "SELECT count(*) FROM t;").trim(), count);
    // Then it is bob's turn.
    sql(bob, "UPDATE t SET text='changed' WHERE number % 7 = 0; DELETE FROM t WHERE number % 11 = 0;");
    group.in_step();
    assert_eq!(sql(alice, "PRAGMA integrity_check;").trim(), "ok");
    assert_eq!(sql(alice, "SELECT count(*) FROM t WHERE number % 11 = 0;").trim(), "0");
    assert!(tree::names(alice.root()).iter().all(|name| !name.contains("conflict")), "{:?}", tree::names(alice.root()));
}

#[test]
fn a_database_with_a_rollback_journal() {
    a_database("DELETE");
}

#[test]
fn a_database_with_a_write_ahead_log() {
    a_database("WAL");
}

/// Many processes at once, locks, hard links, mapped files, and times that decide what is built again.
#[test]
fn cargo_builds_a_program_here_that_runs_there() {
    let group = Group::two();
    let package = group.alice().at("hello");
    fs::create_dir_all(package.join("src")).unwrap();
    let manifest = "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[workspace]\n";
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::write(package.join("src/main.rs"), "fn main() {\n    println!(\"hello\");\n}\n").unwrap();
    let cargo = |peer: &Peer| {
        let mut command = std::process::Command::new("cargo");
        command.args(["build", "--offline"]).current_dir(peer.at("hello"));
        // As a user would: not what the test itself was built with.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") && name != "CARGO_HOME") {
            command.env_remove(name);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    assert!(cargo(group.alice()).contains("Compiling hello"));
    assert!(!cargo(group.alice()).contains("Compiling"), "nothing changed");
    // Some of what cargo makes is for one user alone.
    shell(group.alice().root(), "chmod -R g=u hello");
    group.in_step();
    let program = group.bob().at("hello/target/debug/hello");
    assert_eq!(succeed(&mut std::process::Command::new(program)), "hello\n");
}

#[test]
fn find_and_du_and_ls_see_the_same_on_both_sides() {
    let group = Group::two();
    grow(&group.alice().at("tree"), files() / 3, 4);
    group.in_step();
    for line in ["find tree | sort | sha256sum", "du -sb --apparent-size tree/*", "ls -R tree | sha256sum"] {
        assert_eq!(shell(group.alice().root(), line), shell(group.bob().root(), line), "{line}");
    }
}
