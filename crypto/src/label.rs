//! The one table of domain-separation labels.
//!
//! A key, hash or signature made under one label means nothing under another. A label is never reused for a
//! second purpose, and a change of what it covers is a new label.

macro_rules! labels {
    ($($(#[$attr:meta])* $Name:ident = $text:literal,)*) => {
        /// What a key, hash or signature is for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Label {
            $($(#[$attr])* $Name,)*
        }

        impl Label {
            /// Every label there is.
            pub const ALL: &'static [Label] = &[$(Label::$Name,)*];

            /// The text that enters the key derivation, hash or signature.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Label::$Name => concat!("p2pfs v1 ", $text),)*
                }
            }
        }
    };
}

labels! {
    // Signatures.
    /// A device's signature over a commit header.
    CommitSignature = "commit signature",
    /// A user's signature over one of its devices.
    DeviceCertificate = "device certificate",
    /// A user's signature over a new encryption key of theirs.
    UserKeyCertificate = "user key certificate",
    /// A joiner's proof that it holds the secret key of an invitation.
    TicketProof = "ticket proof",
    /// A device's signature over its addresses at the registry.
    RegistryRecord = "registry record",
    /// A device's proof on a connection that it is a member of the volume.
    MemberProof = "member proof",
    /// A device's signature over a message to members.
    LetterSignature = "letter signature",

    // Keys derived from a node key, an epoch key or a volume's secret.
    /// Seals a node's blocks.
    BlockKey = "block key",
    /// Seals the bodies of a node's changes.
    BodyKey = "body key",
    /// Seals the names of a directory's entries.
    NameKey = "name key",
    /// Keys the tags by which equal names in one directory find each other.
    LinkTag = "link tag",
    /// Keys the tags by which the values of one setting of a volume find each other.
    SettingTag = "setting tag",
    /// Wraps an epoch's predecessors.
    EpochWrap = "epoch wrap",
    /// Wraps a node key under an epoch key.
    NodeKeyWrap = "node key wrap",
    /// Finds other members without naming the volume.
    DiscoveryKey = "discovery key",
    /// What the registry is asked for in place of a volume id.
    RendezvousToken = "rendezvous token",
    /// Carries a ticket's secret to its signing key.
    TicketToken = "ticket token",
    /// Seals values of the local store.
    StoreRow = "store row",
    /// Hides names in the local store.
    StoreName = "store name",
    /// Seals the archive of commits.
    CommitArchive = "commit archive",
    /// Seals the audit log.
    AuditLog = "audit log",
    /// Seals the text of a message to members.
    LetterText = "letter text",
    /// Seals a profile at rest.
    ProfileKey = "profile key",
    /// Turns what unlocks a key file into the key that seals it.
    KeyFile = "key file",

    // Sealed boxes (HPKE info).
    /// A user's box key, to one of the user's devices.
    BoxUserKey = "box of user key",
    /// An epoch's key, to one of its readers.
    BoxEpochKey = "box of epoch key",
    /// An epoch's discovery key, to a keeper.
    BoxDiscoveryKey = "box of discovery key",
    /// The key of a message's text, to one of its readers.
    BoxLetterKey = "box of letter key",
    /// What an admin grants to a joiner.
    JoinBox = "join box",

    // Hashes.
    /// An epoch's id: commits to its key.
    EpochCommitment = "epoch commitment",
    /// A user's id.
    UserIdHash = "user id",
    /// A realm's id: who reads.
    RealmIdHash = "realm id",
    /// A node's or link's id.
    NodeIdHash = "node id",
    /// A volume's id.
    VolumeHash = "volume id",
    /// The hash that names a commit.
    CommitHash = "commit hash",
    /// The root over a commit's changes.
    ChangesRoot = "changes root",
    /// The hash that names a stored block.
    BlockHash = "block hash",
    /// The hash that names a stored patch of a block.
    PatchHash = "patch hash",
    /// The hash that names a list of block hashes.
    ListHash = "list hash",
    /// The contents of a file that is sent directly, as both ends have it.
    SentFile = "sent file",
    /// A digest of what a replica knows.
    SummaryDigest = "summary digest",
    /// A key's id.
    KeyIdHash = "key id",
    /// The chain of the audit log's entries.
    AuditChain = "audit chain",
    /// Tells a damaged key file from a wrong passphrase.
    KeyFileCheck = "key file check",
    /// The digits by which people compare keys.
    Fingerprint = "fingerprint",
    /// The letters behind each line of an exported key.
    ExportedKeyLine = "exported key line",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_labels_are_equal() {
        for (i, a) in Label::ALL.iter().enumerate() {
            assert!(a.as_str().is_ascii() && a.as_str().len() > "p2pfs v1 ".len());
            for b in &Label::ALL[i + 1..] {
                assert_ne!(a.as_str(), b.as_str());
            }
        }
    }
}
