//! `p2pfs chat`: messages between members, on a screen of the terminal.
//!
//! The screen ([`screen::Screen`]) is a state machine: what is typed and what comes goes in, what is to be done comes out. Around
//! it threads wait for the keyboard, for messages and for who is there, so that nothing it does keeps anybody waiting.

mod screen;

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::{
        event::{self, DisableBracketedPaste, EnableBracketedPaste},
        execute,
    },
};
use volume::letters::ALL;

use self::screen::{Deed, News, Person, Screen};
use crate::{
    cli::letters::Chat,
    control::{
        client::{self, unexpected},
        protocol::{Reply, Request},
        request::{AboutLetters, Bytes},
    },
    failure::{Because, Failure, Outcome},
    home::{Home, VolumeDir},
    open_volume::not_mounted,
    report::{Peer, User},
    select::choose,
};

/// How often it is looked who is there.
const LOOK: Duration = Duration::from_secs(2);
/// How long the end waits for what was sent last.
const LEAVING: Duration = Duration::from_secs(5);
/// Numbers in one request: it is bounded.
const NUMBERS: usize = 1000;

pub(crate) fn run(home: &Home, args: &Chat) -> Outcome<()> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::new("this is no terminal: `p2pfs msg` sends and lists messages without one"));
    }
    let dir = Arc::new(choose(home, &args.which, false)?.dir);
    let hello = client::hello(&dir)?.ok_or_else(|| not_mounted(&dir))?;
    let people = people(&dir, &hello.user)?;
    let with = args.with.as_deref().unwrap_or(ALL);
    let mut screen = Screen::new(&hello.volume, &hello.user, people);
    if !screen.turn_to(with) {
        return Err(Failure::new(format!("nobody here is called {with}: `p2pfs users` lists the members")));
    }
    // What was said before: then only news come.
    let mut from = 1;
    loop {
        let letters = letters(&dir, AboutLetters::List { from })?;
        let Some(last) = letters.last() else { break };
        from = last.n.saturating_add(1);
        screen.hear(News::Came(letters));
    }
    let (tell, news) = mpsc::channel();
    let (act, deeds) = mpsc::channel();
    spawn("keyboard", {
        let tell = tell.clone();
        move || read_keys(&tell)
    })?;
    spawn("messages", {
        let (dir, tell) = (dir.clone(), tell.clone());
        move || await_letters(&dir, from, &tell)
    })?;
    spawn("people", {
        let (dir, tell, me) = (dir.clone(), tell.clone(), hello.user);
        move || look(&dir, &me, &tell)
    })?;
    let (working, done) = mpsc::channel::<()>();
    let asked = dir.clone();
    spawn("deeds", move || {
        work(&asked, &deeds, &tell);
        drop(working);
    })?;
    let terminal = ratatui::try_init().because(|| "taking the terminal".to_owned())?;
    let _ = execute!(io::stdout(), EnableBracketedPaste);
    let shown = show(terminal, &mut screen, &news, &act);
    let _ = execute!(io::stdout(), DisableBracketedPaste);
    ratatui::restore();
    // What was sent last is on its way to the daemon.
    drop(act);
    if done.recv_timeout(LEAVING) == Err(RecvTimeoutError::Timeout) {
        let why = format!("{}; what was written last may not have been sent", client::silent(&dir));
        return shown.and(Err(Failure::new(why)));
    }
    let unsent = news.try_iter().filter_map(|news| match news {
        News::NotSent { to, text, why } => Some(format!("not sent to {to}: {why}: {text}")),
        _ => None,
    });
    let unsent: Vec<String> = unsent.collect();
    if unsent.is_empty() { shown } else { shown.and(Err(Failure::new(unsent.join("\n")))) }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Outcome<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).because(|| "starting a thread".to_owned())
}

/// Shows the screen until it is left.
fn show(mut terminal: DefaultTerminal, screen: &mut Screen, news: &Receiver<News>, act: &Sender<Deed>) -> Outcome<()> {
    loop {
        // Those that wait already are shown at once.
        let mut deeds = screen.look();
        terminal.draw(|frame| screen.draw(frame)).because(|| "drawing on the terminal".to_owned())?;
        let Ok(first) = news.recv() else { return Ok(()) };
        for each in std::iter::once(first).chain(news.try_iter()) {
            deeds.extend(screen.hear(each));
        }
        for deed in deeds {
            match deed {
                Deed::Leave(None) => return Ok(()),
                Deed::Leave(Some(why)) => return Err(Failure::new(why)),
                deed => drop(act.send(deed)),
            }
        }
    }
}

fn read_keys(tell: &Sender<News>) {
    loop {
        let told = match event::read() {
            Ok(event) => tell.send(News::Typed(event)),
            Err(e) => return drop(tell.send(News::Over(format!("reading the terminal: {e}")))),
        };
        if told.is_err() {
            return;
        }
    }
}

fn await_letters(dir: &VolumeDir, mut from: u64, tell: &Sender<News>) {
    loop {
        match letters(dir, AboutLetters::Await { from }) {
            Ok(letters) => {
                if let Some(last) = letters.last() {
                    from = last.n.saturating_add(1);
                }
                if !letters.is_empty() && tell.send(News::Came(letters)).is_err() {
                    return;
                }
            }
            Err(why) => return drop(tell.send(News::Over(why_over(dir, &why)))),
        }
    }
}

/// Why nothing more comes: an unmount ends what waits for an answer.
fn why_over(dir: &VolumeDir, why: &Failure) -> String {
    match client::hello(dir) {
        Ok(Some(hello)) if !hello.ending => why.to_string(),
        _ => not_mounted(dir).to_string(),
    }
}

fn look(dir: &VolumeDir, me: &str, tell: &Sender<News>) {
    loop {
        thread::sleep(LOOK);
        // (When the daemon is gone, who waits for messages tells.)
        if let Ok(people) = people(dir, me)
            && tell.send(News::People(people)).is_err()
        {
            return;
        }
    }
}

/// Does what the screen asks for, one after the other.
fn work(dir: &VolumeDir, deeds: &Receiver<Deed>, tell: &Sender<News>) {
    while let Ok(deed) = deeds.recv() {
        let news = match deed {
            Deed::Send { to, text } => {
                let asked = AboutLetters::Send { to: to.clone(), text: Bytes(text.clone().into_bytes()) };
                ask(dir, &Request::Letters(asked)).err().map(|why| News::NotSent { to, text, why: why.to_string() })
            }
            Deed::Read(numbers) => {
                for numbers in numbers.chunks(NUMBERS) {
                    // At worst they count as unread.
                    let _ = ask(dir, &Request::Letters(AboutLetters::Read { numbers: Some(numbers.to_vec()) }));
                }
                None
            }
            Deed::LookAt(from) => letters(dir, AboutLetters::List { from }).ok().map(News::Came),
            Deed::Leave(_) => None,
        };
        if news.is_some_and(|news| tell.send(news).is_err()) {
            return;
        }
    }
}

fn ask(dir: &VolumeDir, request: &Request) -> Outcome<Reply> {
    client::ask(dir, request)?.ok_or_else(|| not_mounted(dir))
}

fn letters(dir: &VolumeDir, asked: AboutLetters) -> Outcome<Vec<volume::Letter>> {
    match ask(dir, &Request::Letters(asked))? {
        Reply::Letters(letters) => Ok(letters),
        _ => Err(unexpected()),
    }
}

/// The other members, and who of them is connected.
fn people(dir: &VolumeDir, me: &str) -> Outcome<Vec<Person>> {
    let (Reply::Users(users), Reply::Peers(peers)) = (ask(dir, &Request::Users)?, ask(dir, &Request::Peers)?) else {
        return Err(unexpected());
    };
    Ok(known(&users, &peers, me))
}

fn known(users: &[User], peers: &[Peer], me: &str) -> Vec<Person> {
    let here = |name: &str| peers.iter().any(|peer| peer.connected && peer.name.as_deref() == Some(name));
    let others = users.iter().filter(|user| user.name != me && user.role != "keeper");
    others.map(|user| Person { name: user.name.clone(), here: here(&user.name) }).collect()
}
