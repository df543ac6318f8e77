//! `p2pfs key`: a user's key as text that can be printed, being that user again with it, and what locks the keys here.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crypto::{DeviceKeys, Label, OsEntropy, SigningKeys, SymmetricKey, Unlock};
use peer_net::join::{Members, come_back};
use volume::{ExportedRequest, TicketSecret, UserSecrets};
use zeroize::Zeroizing;

use crate::{
    cli::{ExportKey, ImportKey, Key, KeyDeed, KeyPassphrase},
    commands::{join, listings::short},
    control::{
        client::unexpected,
        protocol::{Reply, Request},
    },
    exported_key::ExportedKey,
    failure::{Because, Failure, Outcome},
    home::Home,
    open_volume::Session,
    output,
    profile::Profile,
    select::{Chosen, choose},
    unlock::{self, existing_unlock, new_passphrase, passphrase_for, read_passphrase, relock},
};

/// No exported key is longer.
const TEXT_LIMIT: u64 = 256 << 10;

pub(crate) fn run(home: &Home, args: Key) -> Outcome<()> {
    match args.deed {
        KeyDeed::Export(args) => export(home, &args),
        KeyDeed::Import(args) => import(home, &args),
        KeyDeed::Passphrase(args) => passphrase(home, &args),
    }
}

fn export(home: &Home, args: &ExportKey) -> Outcome<()> {
    let session = Session::begin(home, &args.which)?;
    // What opens the keys here is asked for, mounted or not: who finds this machine unlocked shall not carry them off.
    let profile = session.profile()?;
    let Some(signing) = profile.user_keys().signing else {
        return Err(Failure::new(
            "this device does not hold your signing key: export it where you made or joined the volume first",
        ));
    };
    if args.output.as_ref().is_some_and(|output| output.exists()) {
        return Err(Failure::new("the output file exists already: choose another"));
    }
    let file = args.export_passphrase_file.as_deref();
    let sealing = passphrase_for(file, "passphrase for the exported key: ", "--export-passphrase-file FILE")?;
    let Reply::ExportedKey(parts) = session.ask(&Request::ExportKey)? else {
        return Err(unexpected());
    };
    let ticket: [u8; 32] = parts.ticket.0.as_slice().try_into().map_err(|_| unexpected())?;
    let epoch: [u8; 32] = parts.epoch.0.as_slice().try_into().map_err(|_| unexpected())?;
    let key = ExportedKey {
        volume: profile.volume,
        user: parts.user.clone(),
        signing: signing.seed().to_vec(),
        secrets: parts.secrets.0.clone(),
        ticket: ticket.to_vec(),
        epoch: SymmetricKey::from_bytes(epoch),
        registries: parts.registries.clone(),
        peers: ExportedKey::likeliest(parts.peers.clone()),
    };
    let invitation = TicketSecret::from_seed(ticket).public().to_string();
    let about = [
        format!("Whoever has this and its passphrase is {} in volume {}.", parts.user, &session.dir().short_id()[..8]),
        "To be so again on a new machine: p2pfs key import FILE".to_owned(),
        format!("To make it worthless: p2pfs invitations revoke {}", short(&invitation)),
        format!(
            "Made {} by device {}.",
            jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
            short(&profile.device_keys().id().to_string())
        ),
    ];
    let lines = key.to_text(&sealing, &about, &OsEntropy);
    match &args.output {
        None => output::lines(&lines),
        Some(path) => {
            write_new(path, &lines)?;
            output::line(&format!("the key is in {}: print it or put it away, and keep its passphrase", path.display()))
        }
    }
}

/// Writes a file that wasn't there, for this user alone.
fn write_new(path: &Path, lines: &[String]) -> Outcome<()> {
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(lines.join("\n").as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().because(|| format!("writing {}", path.display()))
}

fn import(home: &Home, args: &ImportKey) -> Outcome<()> {
    let text = read_text(&args.file)?;
    let opening = match &args.export_passphrase_file {
        Some(file) => read_passphrase(file)?,
        None if io::stdin().is_terminal() => unlock::prompt("passphrase of the exported key: ")?,
        None => {
            return Err(Failure::new(
                "the exported key has a passphrase and standard input is no terminal: give --export-passphrase-file FILE",
            ));
        }
    };
    let key = ExportedKey::from_text(&text, &opening)?;
    let damaged = || Failure::new("the exported key is damaged");
    let secrets = UserSecrets::from_bytes(&key.secrets).ok_or_else(damaged)?;
    let seed: [u8; 32] = key.signing.as_slice().try_into().map_err(|_| damaged())?;
    let user = secrets.whole(SigningKeys::from_seed(seed));
    let ticket = TicketSecret::from_seed(key.ticket.as_slice().try_into().map_err(|_| damaged())?);
    let registries: Vec<_> = key.registries.iter().filter_map(|registry| registry.parse().ok()).collect();
    let mut begun = join::begin(home, &key.volume, &args.volume, &args.keys, &key.user, &registries)?;
    begun.profile.set_user(&key.user, &user);
    begun.save()?;
    let members = Members {
        volume: key.volume,
        peers: key.peers.clone(),
        registries,
        discovery: key.epoch.derive(Label::DiscoveryKey, b""),
    };
    let ask = async |device: &DeviceKeys| {
        let request = ExportedRequest::new(&ticket, &user, &secrets, device, &OsEntropy);
        match request {
            Ok(request) => come_back(members, request, device, None).await,
            Err(why) => Err(peer_net::join::JoinError::Refused(why)),
        }
    };
    begun.redeem(ask, Some(&secrets))?;
    begun.finish(home, "this device is of volume")
}

fn read_text(file: &Path) -> Outcome<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        io::stdin().lock().take(TEXT_LIMIT + 1).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|f| f.take(TEXT_LIMIT + 1).read_to_string(&mut text))
    };
    read.because(|| format!("reading {}", file.display()))?;
    Ok(text)
}

fn passphrase(home: &Home, args: &KeyPassphrase) -> Outcome<()> {
    let Chosen { dir, passphrase } = choose(home, &args.which, false)?;
    dir.check_format()?;
    let before = existing_unlock(&dir, passphrase.as_ref())?;
    let profile = Profile::load(&dir, &before)?;
    let new = new_passphrase(args.new_passphrase_file.as_deref(), args.no_passphrase)?;
    if new.is_none() && matches!(before, Unlock::Key(_)) {
        return Err(Failure::new("these keys have no passphrase already"));
    }
    let says = match new {
        Some(_) => "from now on only the new passphrase opens the keys on this device",
        None => "from now on whoever reads this disk has the keys",
    };
    relock(&dir, &profile, new, &OsEntropy)?;
    output::line(says)
}
