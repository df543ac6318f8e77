//! Open invitations, as `p2pfs invitations` lists and withdraws them, and that of an exported key.

use crypto::PublicKey;
use peer_net::{registry_address::RegistryAddress, swarm::KnownPeer};
use serde::{Deserialize, Serialize};
use volume::{InvitedAs, Volume};

use super::request::Bytes;
use crate::{
    failure::{Failure, Outcome},
    report::moment,
};

/// So many digits name an invitation at least.
const DIGITS: usize = 4;

/// An invitation that can still be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// The ticket's public key.
    pub(crate) id: String,
    /// What its bearer becomes: a role, `device`, or `exported key`.
    pub(crate) of: String,
    /// Nothing: until it is withdrawn.
    pub(crate) expires: Option<String>,
    pub(crate) user: String,
    pub(crate) device: String,
}

/// What the volume has for an exported key. For this user's own socket only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExportedKey {
    /// The user's name.
    pub(crate) user: String,
    pub(crate) ticket: Bytes,
    pub(crate) secrets: Bytes,
    pub(crate) epoch: Bytes,
    pub(crate) registries: Vec<String>,
    pub(crate) peers: Vec<KnownPeer>,
}

/// Makes the invitation of an exported key.
pub(crate) fn export(volume: &Volume, registries: &[RegistryAddress], peers: Vec<KnownPeer>) -> Outcome<ExportedKey> {
    let parts = volume.export_key()?;
    let user = volume.members().into_iter().find(|member| member.me).map(|member| member.name);
    Ok(ExportedKey {
        user: user.ok_or_else(|| Failure::new("this device was not admitted yet"))?,
        ticket: Bytes(parts.ticket.seed().to_vec()),
        secrets: Bytes(parts.secrets.to_bytes().to_vec()),
        epoch: Bytes(parts.epoch.expose().to_vec()),
        registries: registries.iter().map(ToString::to_string).collect(),
        peers,
    })
}

/// Lists them, those that end first in front.
pub(crate) fn list(volume: &Volume) -> Outcome<Vec<Open>> {
    let open = volume.invitations()?.into_iter().map(|open| Open {
        id: open.ticket.to_string(),
        of: match open.of {
            InvitedAs::Member(role) => role.to_string(),
            InvitedAs::Device => "device".to_owned(),
            InvitedAs::ExportedKey => "exported key".to_owned(),
        },
        expires: open.expires.map(moment),
        user: open.name,
        device: open.device.to_string(),
    });
    Ok(open.collect())
}

/// Withdraws the one whose id begins with these digits.
pub(crate) fn withdraw(volume: &Volume, digits: &str) -> Outcome<()> {
    let open = volume.invitations()?;
    let mut meant: Vec<PublicKey> = open.iter().map(|open| open.ticket).collect();
    meant.retain(|ticket| digits.len() >= DIGITS && ticket.to_string().starts_with(digits));
    meant.dedup();
    match meant[..] {
        [ticket] => Ok(volume.withdraw(&ticket)?),
        [] => Err(Failure::new(format!("no open invitation's id begins with {digits}: see `p2pfs invitations`"))),
        _ => Err(Failure::new(format!("several invitations' ids begin with {digits}: give more digits"))),
    }
}
