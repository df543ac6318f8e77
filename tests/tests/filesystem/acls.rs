//! Access control lists, on a mount for all users of a machine.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use p2pfs_tests::{
    peer::Peer,
    tool::{run, shell},
};

fn allowed(uid: u32, folder: &Path, line: &str) -> bool {
    let mut command = Command::new("bash");
    command.uid(uid).gid(uid).args(["-euc", line]).current_dir(folder);
    command.output().unwrap().status.success()
}

fn acl(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    run("getfacl", ["-cnp", path]).lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// A folder without anything inherited.
fn plain_folder(peer: &Peer) -> std::path::PathBuf {
    let folder = peer.at("d");
    fs::create_dir(&folder).unwrap();
    run("setfacl", ["-b", "-k", folder.to_str().unwrap()]);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn a_named_user_gets_what_the_list_says() {
    let peer = Peer::system();
    let folder = plain_folder(&peer);
    let file = folder.join("f");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!allowed(1001, &folder, "cat f"));
    shell(&folder, "setfacl -m u:1001:r f");
    assert!(allowed(1001, &folder, "cat f"));
    assert!(!allowed(1001, &folder, "echo x >>f"));
    assert!(!allowed(1002, &folder, "cat f"));
    assert_eq!(acl(&file), ["user::rw-", "user:1001:r--", "group::---", "mask::r--", "other::---"]);
    shell(&folder, "setfacl -x u:1001 f; setfacl -b f");
    assert!(!allowed(1001, &folder, "cat f"));
    assert_eq!(acl(&file), ["user::rw-", "group::---", "other::---"]);
}

#[test]
fn mask_and_mode_stay_in_step() {
    let peer = Peer::system();
    let folder = plain_folder(&peer);
    fs::write(folder.join("f"), "").unwrap();
    fs::set_permissions(folder.join("f"), fs::Permissions::from_mode(0o640)).unwrap();
    let mode = || fs::metadata(folder.join("f")).unwrap().mode() & 0o777;
    shell(&folder, "setfacl -m u:1001:rwx f");
    assert_eq!(mode(), 0o670, "the group bits are the mask");
    fs::set_permissions(folder.join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(acl(&folder.join("f")).contains(&"mask::---".to_owned()));
    assert!(!allowed(1001, &folder, "cat f"), "the mask takes it away");
    fs::set_permissions(folder.join("f"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(allowed(1001, &folder, "cat f"));
}

#[test]
fn a_folder_s_default_list_overrides_the_umask() {
    let peer = Peer::system();
    let folder = plain_folder(&peer);
    shell(&folder, "umask 077; touch private; setfacl -d -m u::rwx,u:1001:rwx,g::rx,o::- .");
    shell(&folder, "umask 077; touch f; mkdir s; touch s/g");
    assert_eq!(fs::metadata(folder.join("private")).unwrap().mode() & 0o777, 0o600);
    let expected = ["user::rw-", "user:1001:rwx", "group::r-x", "mask::rw-", "other::---"];
    for name in ["f", "s/g"] {
        let list: Vec<String> =
            acl(&folder.join(name)).iter().map(|l| l.split('\t').next().unwrap().to_owned()).collect();
        assert_eq!(list, expected, "{name}");
    }
    let list = acl(&folder.join("s"));
    for line in ["user:1001:rwx", "mask::rwx", "default:user:1001:rwx", "default:other::---"] {
        assert!(list.iter().any(|l| l.starts_with(line)), "{line} in {list:?}");
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(allowed(1001, &folder, "echo x >>f; echo x >s/new"));
    assert!(!allowed(1002, &folder, "cat f"));
}

#[test]
fn lists_survive_a_restart_and_copying() {
    let mut peer = Peer::system();
    let folder = plain_folder(&peer);
    shell(&folder, "touch f; setfacl -m u:1001:rw,g:2000:r f; setfacl -d -m u:1001:rx .; cp -a f g");
    let before = (acl(&folder.join("f")), acl(&folder));
    assert_eq!(acl(&folder.join("g")), before.0);
    peer.unmount();
    peer.mount();
    assert_eq!((acl(&folder.join("f")), acl(&folder)), before);
}

#[test]
fn a_list_set_from_outside_the_group_takes_the_group_bit() {
    let peer = Peer::system();
    let folder = plain_folder(&peer);
    let after_list_by = |who: &str| {
        let inner = folder.join("inner");
        fs::create_dir(&inner).unwrap();
        std::os::unix::fs::chown(&inner, Some(1001), Some(50)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o2775)).unwrap();
        shell(&folder, &format!("setpriv --reuid {who} setfacl -m u:33:rwx inner"));
        let mode = fs::metadata(&inner).unwrap().mode() & 0o7777;
        fs::remove_dir(inner).unwrap();
        mode
    };
    assert_eq!(after_list_by("1001 --regid 1001 --clear-groups"), 0o775);
    assert_eq!(after_list_by("1001 --regid 1001 --groups 49,50"), 0o2775);
    assert_eq!(after_list_by("1001 --regid 50 --clear-groups"), 0o2775);
    assert_eq!(after_list_by("0 --clear-groups"), 0o2775);
}

#[test]
fn a_list_that_is_not_there_is_removed_all_the_same() {
    let peer = Peer::system();
    let folder = plain_folder(&peer);
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        xattr::remove(&folder, name).unwrap();
    }
}
