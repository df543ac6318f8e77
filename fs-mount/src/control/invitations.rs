//! Open invitations, as `p2pfs invitations` lists and withdraws them.

use crypto::PublicKey;
use serde::{Deserialize, Serialize};
use volume::{InvitedAs, Volume};

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
