//! The Debian packages: built, installed on this very system in a namespace whose changes go nowhere, used, removed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use p2pfs_tests::{binaries::program, scratch::Scratch, tool::succeed};

/// Builds both packages of the programs under test.
fn build(output: &Path) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("scripts/package"));
    command.arg("--programs").arg(program("p2pfs").parent().unwrap()).arg("--output").arg(output);
    succeed(&mut command);
    let mut packages: Vec<_> = output.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    packages.sort();
    packages
}

#[test]
fn the_packages_work_and_leave_nothing_behind() {
    let scratch = Scratch::new();
    let packages = build(&scratch.make("packages"));
    assert_eq!(packages.len(), 2, "{packages:?}");
    let mut command = Command::new("unshare");
    // Processes of its own: when it fails, the daemons end with it.
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "bash"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packaging/installed"));
    succeed(command.arg(scratch.make("installed")).args(packages));
}
