//! The examples of `docs/semantics.md`, typed as they stand there.

use std::{env, fs, iter, os::unix::fs::symlink, path::Path, process::Command};

use p2pfs_tests::{binaries::program, group::Group, peer::Peer};

/// What stands for anything in an output, within a line or instead of any lines.
const ANYTHING: char = '…';

/// A line that is typed, and what it prints.
struct Step {
    line: usize,
    who: String,
    command: String,
    output: Vec<String>,
}

/// The examples, each in the order of its lines.
fn examples() -> Vec<Vec<Step>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/semantics.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut examples, mut within): (Vec<Vec<Step>>, _) = (Vec::new(), false);
    for (line, text) in (1..).zip(text.lines()) {
        if text.starts_with("```") {
            within = text == "```console";
            examples.extend(within.then(Vec::new));
        } else if within {
            let example = examples.last_mut().unwrap();
            match text.split_once("$ ").filter(|(who, _)| ["alice", "bob"].contains(who)) {
                Some((who, command)) => {
                    example.push(Step { line, who: who.to_owned(), command: command.to_owned(), output: Vec::new() })
                }
                None => example.last_mut().unwrap().output.push(text.to_owned()),
            }
        }
    }
    examples
}

/// Types a line in a shell in `~/p2pfs`; what it prints.
fn type_in(peer: &Peer, line: &str) -> String {
    let home = peer.scratch().join(format!("{}'s", peer.name()));
    if !home.exists() {
        fs::create_dir(&home).unwrap();
        symlink(peer.root(), home.join("p2pfs")).unwrap();
    }
    let folder = program("p2pfs").parent().unwrap().to_owned();
    let path = env::join_paths(iter::once(folder).chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec 2>&1; {line}")]).current_dir(peer.root()).env("PATH", path).env("HOME", home);
    shell.env("P2PFS_HOME", peer.home()).env("LC_ALL", "C.UTF-8");
    let done = shell.output().unwrap();
    let printed = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{line}: {}: {printed}", done.status);
    printed
}

/// Whether a line is as it is written.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split(ANYTHING);
    let first = parts.next().unwrap();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What the other did is there.
fn in_step(group: &Group, mounted: [bool; 2]) {
    if mounted == [true; 2] {
        group.peers.iter().for_each(|peer| peer.await_connected(1));
        group.peers.iter().for_each(Peer::wait);
    }
}

#[test]
fn examples_are_as_they_are_written() {
    let examples = examples();
    assert!(examples.len() >= 5 && examples.iter().all(|example| example.len() > 4), "the examples were found");
    let mut group = Group::two();
    let mut mounted = [true; 2];
    for example in examples {
        for Step { line, who, command, output } in example {
            let at = usize::from(who == "bob");
            in_step(&group, mounted);
            let is = |what: &str| command == format!("p2pfs {what} ~/p2pfs");
            // Typed by the harness, which ends them when a test fails.
            if is("mount") || is("unmount") {
                mounted[at] = is("mount");
                if mounted[at] {
                    group.peers[at].mount()
                } else {
                    group.peers[at].unmount()
                }
                continue;
            }
            let printed = type_in(&group.peers[at], &command);
            let as_written = match &output[..] {
                [any] if any.chars().eq([ANYTHING]) => true,
                _ => {
                    printed.lines().count() == output.len() && printed.lines().zip(&output).all(|(a, b)| is_like(a, b))
                }
            };
            assert!(as_written, "line {line}: {command}\nprints:\n{printed}\nand not:\n{}", output.join("\n"));
        }
        assert_eq!(mounted, [true; 2], "whoever was unmounted is mounted again");
        in_step(&group, mounted);
        type_in(group.alice(), "rm -r ~/p2pfs/*");
    }
}
