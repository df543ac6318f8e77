//! The POSIX test suite of its name, all of it, on a mount for all users of a machine.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use p2pfs_tests::{peer::Peer, tool};

/// Cases that may fail, each for what nothing on this side of `/dev/fuse` can change.
const EXCLUDED: [&str; 1] = [
    // Its last step opens a running program with O_RDONLY|O_TRUNC. The kernel lets the filesystem truncate in OPEN
    // (FUSE_ATOMIC_O_TRUNC) before it looks whether somebody runs the file, and which is first, its refusal or the end
    // of the program that lost its pages, is chance. The other steps are in `filesystem`, `mapping::a_running_program_is_not_written_to`.
    "open::etxtbsy",
];
/// Cases that can't be run, likewise.
const SKIPPED: [&str; 1] = [
    // Asks libc for the most links that a file may have, which libc knows of a few filesystems by their number.
    "link::link_count_max",
];
/// What the release that this was written for has, so that none that goes missing is taken for one that passed.
const CASES: usize = 398;

/// Cases on a mount that is read-only meanwhile. The suite leaves files open for writing, with which no mount can become
/// that (tmpfs neither), so that these come in a run of their own.
const READ_ONLY: &str = "erofs";

#[test]
fn all_of_pjdfstest_passes() {
    let peer = Peer::system();
    let mut cases = run(&peer, false);
    cases.retain(|case| !case.name.contains(READ_ONLY));
    cases.extend(run(&peer, true));
    assert_eq!(cases.len(), CASES, "the number of cases");

    let bad = |case: &&Case| match case.outcome {
        Outcome::Passed => false,
        Outcome::Failed => !EXCLUDED.contains(&case.name.as_str()),
        Outcome::Skipped => !SKIPPED.contains(&case.name.as_str()),
    };
    let bad: Vec<String> =
        cases.iter().filter(bad).map(|c| format!("{} {:?}\n{}", c.name, c.outcome, c.output)).collect();
    assert!(bad.is_empty(), "{} of {CASES} cases:\n{}", bad.len(), bad.join("\n"));
}

/// Runs the suite, without or with only the cases that remount.
fn run(peer: &Peer, read_only: bool) -> Vec<Case> {
    let folder = peer.scratch().join(format!("pjdfstest-{read_only}"));
    let elsewhere = folder.join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    remounting_by_the_kernel(&folder);
    let settings = folder.join("settings.toml");
    fs::write(&settings, configuration(read_only)).unwrap();

    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("pjdfstest");
    command.arg("-c").arg(&settings).arg("-p").arg(peer.root()).arg("-s").arg(&elsewhere);
    command.args(read_only.then_some(READ_ONLY));
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").env("PATH", format!("{}:{path}", folder.display()));
    let done = command.output().unwrap_or_else(|e| panic!("pjdfstest: {e}; scripts/test installs it"));
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(out.contains("Summary: "), "pjdfstest did not come to its end: {}\n{out}\n{err}", done.status);
    cases(&out)
}

/// What became of one case, and what was printed about it.
struct Case {
    name: String,
    outcome: Outcome,
    output: String,
}

#[derive(Debug)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Reads the suite's report: a line `syscall::case outcome` each, then indented what there is to say.
fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let outcome = match line.split_whitespace().last() {
            Some("ok") => Some(Outcome::Passed),
            Some("FAILED") => Some(Outcome::Failed),
            Some("skipped") => Some(Outcome::Skipped),
            _ => None,
        };
        match (line.split_whitespace().next(), outcome) {
            (Some(name), Some(outcome)) if line.starts_with(name) && name.contains("::") => {
                cases.push(Case { name: name.to_owned(), outcome, output: String::new() });
            }
            _ => {
                if let Some(case) = cases.last_mut() {
                    case.output.push_str(line);
                    case.output.push('\n');
                }
            }
        }
    }
    cases
}

/// Everything that this system has, with two of the users that every system has.
fn configuration(remount: bool) -> String {
    let users: Vec<String> = ["nobody", "daemon"]
        .iter()
        .map(|user| format!("[\"{user}\", \"{}\"]", tool::run("id", ["-gn", user]).trim()))
        .collect();
    format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\nutimensat = {{}}\n\
         [settings]\nnaptime = 0.01\nallow_remount = {remount}\n\
         [dummy_auth]\nentries = [{}]\n",
        users.join(", ")
    )
}

/// A `mount` for the suite, in `folder`: the real one hands even a remount to the program that the mount's type names,
/// which is for making mounts. With `-i` it asks the kernel.
fn remounting_by_the_kernel(folder: &Path) {
    let real: PathBuf = tool::shell(Path::new("/"), "command -v mount").trim().into();
    let wrapper = folder.join("mount");
    fs::write(&wrapper, format!("#!/bin/sh\nexec {} -i \"$@\"\n", real.display())).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
}
