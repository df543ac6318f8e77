//! Which extended attributes there are.

use volume::{Error, Result};

const TRUSTED: &[u8] = b"trusted.";
const NAMESPACES: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// `name`, if it is in a namespace that files here have. The kernel has checked who may use `trusted.` and `security.`.
pub(super) fn supported(name: &[u8]) -> Result<&[u8]> {
    let known =
        ACLS.contains(&name) || NAMESPACES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    match known {
        true => Ok(name),
        // A namespace without a name in it.
        false if NAMESPACES.contains(&name) => Err(Error::Invalid),
        false => Err(Error::NotSupported),
    }
}

/// The reply to listing `names`, each ended by a zero byte. Only root learns of `trusted.` ones.
pub(super) fn list(names: &[Vec<u8>], uid: u32) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names.iter().filter(|name| uid == 0 || !name.starts_with(TRUSTED)) {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_namespaces_pass() {
        for name in ["user.a", "trusted.overlay", "security.capability", "system.posix_acl_default"] {
            assert!(supported(name.as_bytes()).is_ok(), "{name}");
        }
    }

    #[test]
    fn all_others_are_refused() {
        assert!(matches!(supported(b"user."), Err(Error::Invalid)));
        for name in ["", "user", "system.", "system.nfs4_acl", "system.posix_acl_access2", "btrfs.compression"] {
            assert!(matches!(supported(name.as_bytes()), Err(Error::NotSupported)), "{name}");
        }
    }

    #[test]
    fn trusted_attributes_are_listed_to_root_only() {
        let names = [b"trusted.x".to_vec(), b"user.y".to_vec()];
        assert_eq!(list(&names, 0), b"trusted.x\0user.y\0");
        assert_eq!(list(&names, 1000), b"user.y\0");
    }
}
