//! Making tickets: an invitation in the volume, and the word that leads to it.

use std::{net::SocketAddr, time::Duration};

use peer_net::{registry_address::RegistryAddress, ticket::Ticket};
use volume::{Role, Volume};

use crate::{
    failure::{Failure, Outcome},
    profile::Profile,
};

/// Who is invited, and for how long.
pub(crate) struct Invitation<'a> {
    pub(crate) role: &'a str,
    pub(crate) expires: Duration,
}

/// Invites, durably (whoever gets the word may use it at once), and gives the ticket's word.
pub(crate) fn issue(
    volume: &Volume,
    profile: &Profile,
    invitation: Invitation<'_>,
    registries: Vec<RegistryAddress>,
    hints: Vec<SocketAddr>,
) -> Outcome<String> {
    let role: Role = invitation
        .role
        .parse()
        .map_err(|_| Failure::new(format!("{} is no role: writer, reader, admin or keeper", invitation.role)))?;
    let secret = volume.invite(role, invitation.expires)?;
    let public = secret.public();
    let expires = volume.open_invitations().iter().find(|i| i.ticket == public).map_or(0, |i| i.expires.secs);
    let ticket =
        Ticket { volume: profile.volume, secret, registries, hints, inviter: profile.device_keys().id(), expires };
    Ok(ticket.to_word().to_string())
}
