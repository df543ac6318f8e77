//! `p2pfs wait`: until everybody who is connected has everything.

use crate::{
    cli::{Wait, Which},
    control::{
        client::{self, News},
        protocol::{Progress, Request},
    },
    failure::Outcome,
    home::Home,
    open_volume::not_mounted,
    output::count,
    progress::Bar,
    select::choose,
};

pub(crate) fn run(home: &Home, args: &Wait) -> Outcome<()> {
    let Which { volume, passphrase_file } = args.which.clone();
    let dir = choose(home, &Which { volume, passphrase_file }, false)?.dir;
    let bar = Bar::new("waiting for peers");
    let request = Request::Wait { seconds: args.timeout.as_secs() };
    let reply = client::ask_with_progress(&dir, &request, |news| {
        if let News::Waiting(how_far) = news {
            show(&bar, how_far);
        }
    })?;
    reply.map(|_| ()).ok_or_else(|| not_mounted(&dir))
}

fn show(bar: &Bar, how_far: &Progress) {
    let Progress { peers, in_step, commits, blocks, .. } = how_far;
    let message = match peers {
        0 => "nobody is connected".to_owned(),
        _ => format!(
            "{in_step} of {} in step, {} and {} under way",
            count(*peers as u64, "peer"),
            count(*commits, "commit"),
            count(*blocks, "block")
        ),
    };
    bar.left(commits + blocks, message);
}
