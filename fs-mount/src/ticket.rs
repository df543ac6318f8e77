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
    /// As what; nothing for a further device of this user.
    pub(crate) role: Option<&'a str>,
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
    let (secret, user) = match invitation.role {
        Some(role) => {
            let role: Role = role
                .parse()
                .map_err(|_| Failure::new(format!("{role} is no role: writer, reader, admin or keeper")))?;
            (volume.invite(role, invitation.expires)?, None)
        }
        None => (volume.invite_device(Some(invitation.expires))?, Some(profile.user_keys().id())),
    };
    let public = secret.public();
    let expires = volume.invitations()?.iter().find(|i| i.ticket == public).and_then(|i| i.expires);
    let ticket = Ticket {
        volume: profile.volume,
        secret,
        registries,
        hints,
        inviter: profile.device_keys().id(),
        expires: expires.map_or(0, |expires| expires.secs),
        user,
    };
    Ok(ticket.to_word().to_string())
}
