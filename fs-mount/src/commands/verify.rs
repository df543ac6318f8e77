//! `p2pfs verify`: checks everything that this device keeps of a volume, and repairs what can be.

use crate::{
    cli::Verify,
    control::{
        client::{self, News, unexpected},
        protocol::{Reply, Request},
    },
    failure::{Failure, Outcome},
    home::Home,
    output::{self, bytes, count},
    profile::{Profile, State},
    progress::Bar,
    repair,
    report::{Damage, Scrubbed, Verified},
    select::{Chosen, choose},
    unlock::existing_unlock,
    volume_lock::VolumeLock,
};

pub(crate) fn run(home: &Home, args: &Verify) -> Outcome<()> {
    let Chosen { dir, passphrase } = choose(home, &args.which, false)?;
    dir.check_format()?;
    let bar = Bar::new("verifying");
    let request = Request::Verify { repair: args.repair };
    let told = match client::hello(&dir)? {
        Some(hello) if !hello.ending => client::ask_with_progress(&dir, &request, |news| {
            if let News::Verifying(so_far) = news {
                show(&bar, so_far);
            }
        })?,
        _ => None,
    };
    let verified = match told {
        Some(Reply::Verified(verified)) => *verified,
        Some(_) => return Err(unexpected()),
        None => {
            let _lock = VolumeLock::wait_for(&dir)?;
            let profile = Profile::load(&dir, &existing_unlock(&dir, passphrase.as_ref())?)?;
            let state = State::load(&dir, &profile.secret);
            repair::verify(dir.path(), &profile, &state, args.repair, &mut |so_far| show(&bar, so_far))?
        }
    };
    drop(bar);
    if args.json {
        output::json(&verified)?
    } else {
        output::lines(&screen(&verified))?
    }
    match verified.unrepaired() {
        0 => Ok(()),
        left => Err(Failure::new(format!("{}: {}", count(left, "damage"), next_step(&verified, args.repair)))),
    }
}

fn show(bar: &Bar, so_far: &Scrubbed) {
    let Scrubbed { records, contents, bytes: read, .. } = so_far;
    bar.at(0, 0, format!("{}, {}, {}", count(*records, "record"), count(*contents, "content"), bytes(*read)));
}

fn screen(verified: &Verified) -> Vec<String> {
    let mut lines: Vec<String> = verified.damage.iter().map(line).collect();
    let told = verified.damage.len() as u64;
    if verified.damages > told {
        lines.push(format!("… and {} more", verified.damages - told));
    }
    if let Some(rebuilt) = &verified.rebuilt {
        let mut text = format!("the store was built anew from {}", count(rebuilt.commits, "commit"));
        if rebuilt.damaged > 0 {
            text += &format!("; {} could not be read and will come from other devices", rebuilt.damaged);
        }
        if rebuilt.waiting > 0 {
            text += &format!("; {} wait for them", rebuilt.waiting);
        }
        lines.push(format!("{text}. The damaged store is kept in {}", rebuilt.kept));
    }
    if verified.recovered > 0 {
        lines.push(format!("{} put aside earlier are whole again", count(verified.recovered, "block")));
    }
    let Scrubbed { records, commits, contents, blocks, bytes: read } = verified.checked;
    let seen = [count(records, "record"), count(commits, "commit"), count(contents, "content"), count(blocks, "block")];
    let result = if verified.damages == 0 { "no damage" } else { "damage as told" };
    lines.push(format!("verified {} ({}): {result}", seen.join(", "), bytes(read)));
    lines
}

fn line(damage: &Damage) -> String {
    let repaired = if damage.repaired { ": repaired" } else { "" };
    match &damage.path {
        Some(path) => format!("{path}: {}{repaired}", damage.what),
        None => format!("{}{repaired}", damage.what),
    }
}

fn next_step(verified: &Verified, repair: bool) -> &'static str {
    match (repair, verified.needs_rebuild, verified.mounted) {
        (false, ..) => "`p2pfs verify --repair` repairs what can be",
        (true, true, true) => "the store must be built anew: unmount the volume, then `p2pfs verify --repair` again",
        (true, true, false) => "not everything could be repaired: see `p2pfs verify`",
        (true, false, true) => "no connected device has what is lacking: try again when others are connected",
        (true, false, false) => "what is lacking comes from other devices once the volume is mounted",
    }
}
