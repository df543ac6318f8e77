//! Running other people's programs.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Output},
};

/// A tool's name is missing from this machine more often than it fails.
fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{}: {e}", command.get_program().display()))
}

/// Runs `command`, which must succeed, and returns what it printed.
pub fn succeed(command: &mut Command) -> String {
    let done = output(command);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}\n{}\n{out}\n{err}", done.status);
    out.into_owned()
}

/// Runs `program` with `arguments`, which must succeed, and returns what it printed.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    succeed(Command::new(program).args(arguments))
}

/// Runs a line of shell in `folder`. A failure anywhere in it fails the test.
pub fn shell(folder: &Path, line: &str) -> String {
    succeed(Command::new("bash").args(["-euo", "pipefail", "-c", line]).current_dir(folder))
}

/// Git without this machine's settings, in `folder`.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    succeed(&mut git_command(folder, arguments))
}

/// The same, to be run by the caller.
pub fn git_command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=Alice", "-c", "user.email=alice@example.org", "-c", "init.defaultBranch=main"])
        // Work that goes on in the background would race with what a test looks at.
        .args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    command
}
