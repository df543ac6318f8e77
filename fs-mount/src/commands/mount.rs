//! `p2pfs mount`: brings the daemon up, in the background or here.

use crate::{
    cli::Mount,
    control::client,
    daemon::{self, Config, launch},
    failure::{Failure, Outcome},
    home::{Home, user_home},
    mountpoint,
    select::{Chosen, choose},
    unlock::{ask_passphrase, unlock_unasked},
    volume_lock::already_mounted,
};

pub(crate) fn run(home: &Home, args: Mount) -> Outcome<()> {
    let Chosen { dir, passphrase } = choose(home, &args.which, true)?;
    dir.check_format()?;
    // One that is ending lets the volume go in a moment: `umount` doesn't wait for it.
    if let Some(hello) = client::hello(&dir)?
        && !hello.ending
    {
        return Err(already_mounted(&dir, hello));
    }
    // Asked for here: the daemon in the background has no terminal.
    let passphrase = match unlock_unasked(&dir, passphrase.as_ref())? {
        Some(_) => passphrase,
        None => Some(ask_passphrase(&dir)?),
    };
    let (mountpoint, create) = match &args.mountpoint {
        Some(path) => (mountpoint::absolute(path)?, false),
        None => {
            let home = user_home()
                .map_err(|_| Failure::new("HOME is not set, so there is no usual place: give the mount point"))?;
            (mountpoint::absolute(&home.join("p2pfs"))?, true)
        }
    };
    let config = Config {
        dir,
        passphrase,
        mountpoint,
        create,
        allow_other: args.allow_other,
        source: args.source,
        listen: args.listen,
        registries: args.registry,
        absent_timeout: args.absent_timeout,
        metrics: args.operating.metrics,
        alerts: args.operating.alerts(),
    };
    if args.foreground {
        return daemon::run(config, |ready| {
            // Whether anybody reads it makes no difference to the mount.
            let _ = launch::announce(&ready.mountpoint, &ready.warnings);
        });
    }
    let warnings = launch::in_background(&config)?;
    launch::announce(&config.mountpoint, &warnings)
}
