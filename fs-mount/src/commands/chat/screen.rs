//! What the chat shows, and what follows from what is typed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Zoned, civil::Date, tz::TimeZone};
use ratatui::{
    Frame,
    crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Position, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};
use textwrap::{Options, core::display_width};
use tui_input::{Input, InputRequest};
use volume::{
    Letter, Timestamp,
    letters::{ALL, MAX_TEXT},
};

use crate::output::printable;

/// Narrower terminals have no list of people beside.
const WIDE: u16 = 60;
/// How wide that list is.
const PEOPLE: u16 = 22;
/// Colours that can be read on light and on dark.
const COLOURS: [Color; 5] = [Color::Cyan, Color::Magenta, Color::Green, Color::Yellow, Color::Blue];

/// Somebody to talk with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    /// Whether one of their devices is connected.
    pub(super) here: bool,
}

/// What the screen hears of.
#[derive(Debug)]
pub(super) enum News {
    Typed(Event),
    /// New messages, or ones of which something is new.
    Came(Vec<Letter>),
    People(Vec<Person>),
    NotSent {
        to: String,
        text: String,
        why: String,
    },
    /// Nothing more comes.
    Over(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Send {
        to: String,
        text: String,
    },
    /// These were seen.
    Read(Vec<u64>),
    /// Whether there is something new of those from this one on.
    LookAt(u64),
    /// The end, and why if nobody asked for it.
    Leave(Option<String>),
}

/// The chat: a conversation with each member, and one with all.
pub(super) struct Screen {
    volume: String,
    me: String,
    people: Vec<Person>,
    /// With whom: a name, or [`ALL`].
    with: String,
    letters: BTreeMap<u64, Letter>,
    /// Those that this screen has shown, while it isn't noted yet that they were read.
    seen: BTreeSet<u64>,
    /// What is being written in the shown conversation, and in the others.
    input: Input,
    drafts: BTreeMap<String, Input>,
    /// Lines that it is scrolled up.
    up: usize,
    notice: Option<String>,
    zone: TimeZone,
}

impl Screen {
    pub(super) fn new(volume: &str, me: &str, people: Vec<Person>) -> Self {
        Self {
            volume: volume.to_owned(),
            me: me.to_owned(),
            people,
            with: ALL.to_owned(),
            letters: BTreeMap::new(),
            seen: BTreeSet::new(),
            input: Input::default(),
            drafts: BTreeMap::new(),
            up: 0,
            notice: None,
            zone: TimeZone::system(),
        }
    }

    /// Shows the conversation with a member, or with [`ALL`]. Tells whether there is one. What is being written stays with whom
    /// it is for.
    pub(super) fn turn_to(&mut self, name: &str) -> bool {
        let known = self.conversations().any(|known| known == name);
        if known && name != self.with {
            let left = std::mem::replace(&mut self.with, name.to_owned());
            let draft = self.drafts.remove(name).unwrap_or_default();
            self.drafts.insert(left, std::mem::replace(&mut self.input, draft));
            self.up = 0;
        }
        known
    }

    fn conversations(&self) -> impl Iterator<Item = &str> {
        std::iter::once(ALL).chain(self.people.iter().map(|person| person.name.as_str()))
    }

    /// The next conversation, or the one before.
    fn turn(&mut self, back: bool) {
        let names: Vec<String> = self.conversations().map(str::to_owned).collect();
        let at = names.iter().position(|name| *name == self.with).unwrap_or(0);
        let next = (at + if back { names.len() - 1 } else { 1 }) % names.len();
        self.turn_to(&names[next]);
    }

    /// Takes in what happened. Returns what is to be done.
    pub(super) fn hear(&mut self, news: News) -> Vec<Deed> {
        match news {
            News::Typed(Event::Key(key)) if key.kind != KeyEventKind::Release => return self.press(key),
            News::Typed(Event::Paste(text)) => self.paste(&text),
            News::Typed(_) => {}
            News::Came(letters) => self.letters.extend(letters.into_iter().map(|letter| (letter.n, letter))),
            News::People(people) => {
                self.people = people;
                if !self.conversations().any(|name| name == self.with) {
                    self.notice = Some(format!("{} is no member any more", self.with));
                    self.turn_to(ALL);
                }
                let waiting = self.letters.values().find(|letter| letter.waiting > 0);
                return waiting.map(|letter| Deed::LookAt(letter.n)).into_iter().collect();
            }
            News::NotSent { to, text, why } => {
                self.notice = Some(format!("not sent to {to}: {why}"));
                // It is in the line again, before what was written since.
                if self.input.value().is_empty() {
                    self.turn_to(&to);
                }
                let line = if self.with == to { &mut self.input } else { self.drafts.entry(to).or_default() };
                let since = line.value();
                *line = if since.is_empty() { text.into() } else { format!("{text} {since}").into() };
            }
            News::Over(why) => return vec![Deed::Leave(Some(why))],
        }
        Vec::new()
    }

    /// Notes that what the shown conversation has is seen.
    pub(super) fn look(&mut self) -> Vec<Deed> {
        if self.up > 0 {
            return Vec::new();
        }
        let shown = self.letters.values().filter(|letter| !letter.read && !letter.own && self.is_shown(letter));
        let new: Vec<u64> = shown.map(|letter| letter.n).filter(|n| !self.seen.contains(n)).collect();
        self.seen.extend(&new);
        if new.is_empty() { Vec::new() } else { vec![Deed::Read(new)] }
    }

    fn press(&mut self, key: KeyEvent) -> Vec<Deed> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        self.notice = None;
        let edit = match key.code {
            KeyCode::Esc => return vec![Deed::Leave(None)],
            KeyCode::Char('c') if control => return vec![Deed::Leave(None)],
            KeyCode::Char('d') if control && self.input.value().is_empty() => return vec![Deed::Leave(None)],
            KeyCode::Enter => return self.send(),
            KeyCode::Tab | KeyCode::Down => return self.turned(false),
            KeyCode::BackTab | KeyCode::Up => return self.turned(true),
            KeyCode::PageUp => {
                self.up = self.up.saturating_add(10);
                return Vec::new();
            }
            KeyCode::PageDown => {
                self.up = self.up.saturating_sub(10);
                return Vec::new();
            }
            KeyCode::Backspace => InputRequest::DeletePrevChar,
            KeyCode::Delete => InputRequest::DeleteNextChar,
            KeyCode::Left if control => InputRequest::GoToPrevWord,
            KeyCode::Right if control => InputRequest::GoToNextWord,
            KeyCode::Left => InputRequest::GoToPrevChar,
            KeyCode::Right => InputRequest::GoToNextChar,
            KeyCode::Home => InputRequest::GoToStart,
            KeyCode::End => InputRequest::GoToEnd,
            KeyCode::Char('a') if control => InputRequest::GoToStart,
            KeyCode::Char('e') if control => InputRequest::GoToEnd,
            KeyCode::Char('w') if control => InputRequest::DeletePrevWord,
            KeyCode::Char('u') if control => InputRequest::DeleteLine,
            KeyCode::Char('k') if control => InputRequest::DeleteTillEnd,
            KeyCode::Char(c) if !control && !c.is_control() => InputRequest::InsertChar(c),
            _ => return Vec::new(),
        };
        self.input.handle(edit);
        Vec::new()
    }

    fn paste(&mut self, text: &str) {
        // One line: breaks would have sent what stands before them.
        let parts = text.split(['\r', '\n']).filter(|part| !part.is_empty()).collect::<Vec<_>>();
        let line: String = parts.join(" ").chars().filter(|c| !c.is_control()).collect();
        if self.input.value().len() + line.len() > MAX_TEXT {
            self.notice = Some(too_long());
            return;
        }
        let (value, at) = (self.input.value(), self.input.cursor());
        let byte = value.char_indices().nth(at).map_or(value.len(), |(byte, _)| byte);
        let (before, after) = value.split_at(byte);
        self.input = Input::new(format!("{before}{line}{after}")).with_cursor(at + line.chars().count());
    }

    fn turned(&mut self, back: bool) -> Vec<Deed> {
        self.turn(back);
        Vec::new()
    }

    fn send(&mut self) -> Vec<Deed> {
        let text = self.input.value().trim_end();
        if text.trim().is_empty() {
            return Vec::new();
        }
        if text.len() > MAX_TEXT {
            self.notice = Some(too_long());
            return Vec::new();
        }
        let deed = Deed::Send { to: self.with.clone(), text: text.to_owned() };
        (self.input, self.up) = (Input::default(), 0);
        vec![deed]
    }

    /// With whom a message is.
    fn conversation_of(letter: &Letter) -> &str {
        match letter.to.as_str() {
            ALL => ALL,
            to if letter.own => to,
            _ => &letter.from,
        }
    }

    fn is_shown(&self, letter: &Letter) -> bool {
        Self::conversation_of(letter) == self.with
    }

    /// How many nobody has read, by conversation.
    fn unread(&self) -> BTreeMap<&str, usize> {
        let is_new = |letter: &&Letter| !letter.read && !letter.own && !self.seen.contains(&letter.n);
        let mut unread = BTreeMap::new();
        for letter in self.letters.values().filter(is_new) {
            *unread.entry(Self::conversation_of(letter)).or_default() += 1;
        }
        unread
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, middle, line, help] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(3), Constraint::Length(1)])
                .areas(frame.area());
        let unread = self.unread();
        frame.render_widget(Paragraph::new(self.head(&unread)), head);
        let talk = if frame.area().width >= WIDE {
            let [people, talk] = Layout::horizontal([Constraint::Length(PEOPLE), Constraint::Min(1)]).areas(middle);
            // Whoever is talked with is in view.
            let at = self.conversations().position(|name| name == self.with).unwrap_or(0);
            let above = (at + 1).saturating_sub(usize::from(people.height));
            let list = Paragraph::new(self.list(&unread)).scroll((u16::try_from(above).unwrap_or(u16::MAX), 0));
            frame.render_widget(list.block(Block::new().borders(Borders::RIGHT).dim()), people);
            talk
        } else {
            middle
        };
        let shown = self.talk(usize::from(talk.width), usize::from(talk.height));
        let below = Rect { y: talk.y + talk.height.saturating_sub(shown.len() as u16), ..talk };
        frame.render_widget(Paragraph::new(shown), below.intersection(talk));
        self.draw_line(frame, line);
        let help_text = match &self.notice {
            Some(notice) => Line::from(printable(notice)).bold(),
            None => Line::from("Enter sends   Tab next   PgUp/PgDn scroll   Esc leaves").dim(),
        };
        frame.render_widget(Paragraph::new(help_text), help);
    }

    fn draw_line(&self, frame: &mut Frame<'_>, area: Rect) {
        let to = if self.with == ALL { "to all".to_owned() } else { format!("to {}", printable(&self.with)) };
        let block = Block::bordered().title(to);
        let inner = block.inner(area);
        let scroll = self.input.visual_scroll(usize::from(inner.width.max(2) - 1));
        let column = self.input.visual_cursor().saturating_sub(scroll);
        frame.render_widget(Paragraph::new(self.input.value()).scroll((0, scroll as u16)).block(block), area);
        let column = inner.x.saturating_add(u16::try_from(column).unwrap_or(0));
        frame.set_cursor_position(Position::new(column.min(inner.right().saturating_sub(1)), inner.y));
    }

    fn head(&self, unread: &BTreeMap<&str, usize>) -> Line<'static> {
        let unread: usize = self.conversations().filter_map(|name| unread.get(name)).sum();
        let new = if unread > 0 { format!("   {unread} new") } else { String::new() };
        let with = if self.with == ALL { "all".to_owned() } else { printable(&self.with) };
        let away = match self.people.iter().find(|person| person.name == self.with) {
            Some(person) if !person.here => " (away: gets it later)",
            _ => "",
        };
        Line::from(vec![
            format!("{} ", printable(&self.volume)).bold(),
            format!("{} with {with}", printable(&self.me)).into(),
            away.dim(),
            new.bold(),
        ])
    }

    /// Everybody: a full dot is somebody who is connected.
    fn list(&self, unread: &BTreeMap<&str, usize>) -> Vec<Line<'static>> {
        let line = |name: &str| {
            let (mark, shown) = match self.people.iter().find(|person| person.name == name) {
                None => ("  ", "all".to_owned()),
                Some(person) => (if person.here { "● " } else { "○ " }, printable(name)),
            };
            let unread = unread.get(name).copied().unwrap_or(0);
            let count = if unread > 0 { format!(" {unread}") } else { String::new() };
            let style = if name == self.with { Style::new().reversed() } else { Style::new() };
            Line::from(vec![mark.into(), Span::styled(shown, style), count.bold()]).style(Style::new().not_dim())
        };
        self.conversations().map(line).collect()
    }

    /// The lines of the conversation that fit, the newest at the end.
    fn talk(&mut self, width: usize, height: usize) -> Vec<Line<'static>> {
        let wanted = height.saturating_add(self.up);
        // From the end on: of a long conversation only what is shown is laid out.
        let mut groups: Vec<Vec<Line<'static>>> = Vec::new();
        let mut lines = 0;
        let mut later: Option<Date> = None;
        for letter in self.letters.values().rev().filter(|letter| self.is_shown(letter)) {
            let day = self.zoned(letter.sent).date();
            if let Some(after) = later.replace(day).filter(|after| *after != day) {
                groups.push(vec![day_line(after)]);
                lines += 1;
            }
            if lines >= wanted {
                break;
            }
            let group = self.lines_of(letter, width);
            lines += group.len();
            groups.push(group);
        }
        if let Some(day) = later.filter(|_| lines < wanted) {
            groups.push(vec![day_line(day)]);
        }
        let mut all: Vec<Line<'static>> = groups.into_iter().rev().flatten().collect();
        if all.is_empty() {
            return vec![Line::from("nothing was said yet: write something and press Enter").dim()];
        }
        // Not past the beginning.
        self.up = self.up.min(all.len().saturating_sub(height));
        all.truncate(all.len() - self.up);
        all.split_off(all.len().saturating_sub(height))
    }

    fn zoned(&self, time: Timestamp) -> Zoned {
        let nanos = i32::try_from(time.nanos).unwrap_or(0);
        jiff::Timestamp::new(time.secs, nanos).unwrap_or_default().to_zoned(self.zone.clone())
    }

    fn lines_of(&self, letter: &Letter, width: usize) -> Vec<Line<'static>> {
        let time = self.zoned(letter.sent).strftime("%H:%M").to_string();
        let name = printable(if letter.own { "you" } else { &letter.from });
        let colour = if letter.own { Style::new().bold() } else { Style::new().bold().fg(colour_of(&letter.from)) };
        let indent = " ".repeat(time.len() + 1 + display_width(&name) + 1);
        // In a narrow terminal the text gets a line of its own.
        let indent = if indent.len() * 2 > width { " ".repeat(2.min(width)) } else { indent };
        let mut lines = Vec::new();
        for (nth, part) in letter.text.lines().enumerate() {
            let part = printable(part);
            let options = Options::new(width.max(1)).initial_indent(&indent).subsequent_indent(&indent);
            for (row, text) in textwrap::wrap(&part, options).into_iter().enumerate() {
                let text = text.into_owned();
                let fits = (nth, row) == (0, 0) && indent.len() > 2;
                if (nth, row) == (0, 0) {
                    let head = vec![format!("{time} ").dim(), Span::styled(format!("{name} "), colour)];
                    lines.push(Line::from(head));
                }
                match lines.last_mut().filter(|_| fits) {
                    Some(first) => first.push_span(text.get(indent.len()..).unwrap_or_default().to_owned()),
                    None => lines.push(Line::from(text)),
                }
            }
        }
        if letter.waiting > 0
            && let Some(last) = lines.last_mut()
        {
            last.push_span(" …".dim());
        }
        lines
    }
}

fn too_long() -> String {
    format!("too long: a message has at most {} KiB; put the text into a file", MAX_TEXT >> 10)
}

fn day_line(day: Date) -> Line<'static> {
    Line::from(format!("── {} ──", day.strftime("%A, %e %B %Y"))).dim()
}

fn colour_of(name: &str) -> Color {
    let sum: usize = name.bytes().map(usize::from).sum();
    COLOURS[sum % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn person(name: &str, here: bool) -> Person {
        Person { name: name.to_owned(), here }
    }

    fn letter(n: u64, from: &str, to: &str, text: &str) -> Letter {
        Letter {
            n,
            from: from.to_owned(),
            device: "4f2a".to_owned(),
            to: to.to_owned(),
            sent: Timestamp { secs: 1_795_338_900 + n as i64, nanos: 0 },
            came: Timestamp { secs: 1_795_338_900, nanos: 0 },
            text: text.to_owned(),
            own: from == "alice",
            read: false,
            waiting: 0,
        }
    }

    fn screen() -> Screen {
        let mut screen = Screen::new("docs", "alice", vec![person("bob", true), person("carol", false)]);
        screen.zone = TimeZone::UTC;
        screen
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn typed(screen: &mut Screen, code: KeyCode) -> Vec<Deed> {
        screen.hear(News::Typed(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))))
    }

    fn written(screen: &mut Screen, text: &str) -> Vec<Deed> {
        text.chars().for_each(|c| assert!(typed(screen, KeyCode::Char(c)).is_empty()));
        typed(screen, KeyCode::Enter)
    }

    #[test]
    fn what_is_written_is_sent_to_whom_it_is_shown_with() {
        let mut screen = screen();
        assert!(screen.turn_to("bob") && !screen.turn_to("dave"));
        let sent = written(&mut screen, "héllo 世界 ");
        assert_eq!(sent, [Deed::Send { to: "bob".to_owned(), text: "héllo 世界".to_owned() }]);
        assert!(written(&mut screen, "   ").is_empty(), "there is nothing in it");
        typed(&mut screen, KeyCode::Tab);
        typed(&mut screen, KeyCode::Tab);
        assert_eq!(written(&mut screen, "x"), [Deed::Send { to: ALL.to_owned(), text: "x".to_owned() }]);
        // What was begun is for whom it was begun.
        screen.turn_to("bob");
        assert_eq!(written(&mut screen, "x"), [Deed::Send { to: "bob".to_owned(), text: "   x".to_owned() }]);
        screen.turn_to(ALL);
        screen.hear(News::Typed(Event::Paste("two\r\nlines\u{1b}[2J\n".to_owned())));
        assert_eq!(
            typed(&mut screen, KeyCode::Enter),
            [Deed::Send { to: ALL.to_owned(), text: "two lines[2J".to_owned() }]
        );
        screen.hear(News::Typed(Event::Paste("a".repeat(MAX_TEXT + 1))));
        assert!(drawn(&mut screen, 80, 20).contains("too long"));
        assert!(typed(&mut screen, KeyCode::Enter).is_empty());
        "ac".chars().for_each(|c| drop(typed(&mut screen, KeyCode::Char(c))));
        typed(&mut screen, KeyCode::Left);
        screen.hear(News::Typed(Event::Paste("世".to_owned())));
        assert_eq!(written(&mut screen, "b"), [Deed::Send { to: ALL.to_owned(), text: "a世bc".to_owned() }]);
        screen.hear(News::Typed(Event::Paste("a".repeat(MAX_TEXT))));
        typed(&mut screen, KeyCode::Char('a'));
        assert!(typed(&mut screen, KeyCode::Enter).is_empty());
        assert!(drawn(&mut screen, 80, 20).contains("too long"));
        assert_eq!(typed(&mut screen, KeyCode::Esc), [Deed::Leave(None)]);
    }

    #[test]
    fn what_could_not_be_sent_is_there_again() {
        let mut screen = screen();
        let (to, text) = ("bob".to_owned(), "hello".to_owned());
        screen.hear(News::NotSent { to, text, why: "the disk is full".to_owned() });
        assert!(drawn(&mut screen, 80, 20).contains("the disk is full"));
        assert_eq!(typed(&mut screen, KeyCode::Enter), [Deed::Send { to: "bob".to_owned(), text: "hello".to_owned() }]);
        // Also if something else is written meanwhile, to them or to another one.
        let failed = || News::NotSent { to: "bob".to_owned(), text: "one".to_owned(), why: "x".to_owned() };
        typed(&mut screen, KeyCode::Char('2'));
        screen.hear(failed());
        screen.turn_to("carol");
        typed(&mut screen, KeyCode::Char('3'));
        screen.hear(failed());
        assert_eq!(typed(&mut screen, KeyCode::Enter), [Deed::Send { to: "carol".to_owned(), text: "3".to_owned() }]);
        screen.turn_to("bob");
        let all = "one one 2".to_owned();
        assert_eq!(typed(&mut screen, KeyCode::Enter), [Deed::Send { to: "bob".to_owned(), text: all }]);
    }

    #[test]
    fn whoever_is_talked_with_is_in_view() {
        let mut screen = screen();
        screen.hear(News::People((0..50).map(|n| person(&format!("person{n}"), true)).collect()));
        screen.turn_to("person49");
        assert!(drawn(&mut screen, 80, 20).contains("● person49"));
    }

    #[test]
    fn what_is_shown_is_read_and_what_is_not_is_counted() {
        let mut screen = screen();
        screen.turn_to("bob");
        screen.hear(News::Came(vec![
            letter(1, "bob", "alice", "hello"),
            letter(2, "carol", "alice", "and I"),
            letter(3, "carol", ALL, "everybody"),
            letter(4, "alice", "bob", "yes?"),
        ]));
        assert_eq!(screen.look(), [Deed::Read(vec![1])]);
        assert_eq!(screen.look(), []);
        let text = drawn(&mut screen, 80, 20);
        for part in ["bob hello", "you yes?", "● bob", "○ carol 1", "all 1", "2 new", "22 November 2026"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("and I"));
        typed(&mut screen, KeyCode::Tab);
        assert_eq!(screen.look(), [Deed::Read(vec![2])]);
        assert!(drawn(&mut screen, 80, 20).contains("away: gets it later"));
    }

    #[test]
    fn what_waits_is_looked_at_again() {
        let mut screen = screen();
        screen.hear(News::Came(vec![Letter { waiting: 1, ..letter(7, "alice", ALL, "hello") }]));
        assert!(drawn(&mut screen, 80, 20).contains("hello …"));
        assert_eq!(screen.hear(News::People(vec![person("bob", true)])), [Deed::LookAt(7)]);
        screen.hear(News::Came(vec![letter(7, "alice", ALL, "hello")]));
        assert!(!drawn(&mut screen, 80, 20).contains("hello …"));
        assert!(screen.hear(News::People(vec![person("bob", true)])).is_empty());
    }

    #[test]
    fn nothing_that_is_written_moves_the_cursor() {
        let mut screen = screen();
        screen.hear(News::Came(vec![letter(1, "bob", ALL, "\u{1b}[2Jhi\u{202e}\nline two")]));
        let text = drawn(&mut screen, 80, 20);
        assert!(text.contains("\\u{1b}[2Jhi\\u{202e}") && text.contains("line two"), "{text}");
    }

    #[test]
    fn long_talks_scroll_in_terminals_of_any_size() {
        let mut screen = screen();
        let long = "word ".repeat(100);
        let all = (1..=500).map(|n| letter(n, "bob", ALL, &format!("message {n} {long}"))).collect();
        screen.hear(News::Came(all));
        assert!(drawn(&mut screen, 80, 20).contains("message 500"));
        typed(&mut screen, KeyCode::PageUp);
        typed(&mut screen, KeyCode::PageUp);
        assert!(screen.look().is_empty(), "the end isn't shown");
        assert!(!drawn(&mut screen, 80, 20).contains("message 500"));
        (0..2000).for_each(|_| drop(typed(&mut screen, KeyCode::PageUp)));
        assert!(drawn(&mut screen, 80, 20).contains("message 1 "));
        for (width, height) in [(1, 1), (2, 3), (5, 5), (20, 6), (59, 9), (60, 9), (500, 3)] {
            drawn(&mut screen, width, height);
        }
    }

    #[test]
    fn who_is_removed_is_talked_with_no_more() {
        let mut screen = screen();
        screen.turn_to("bob");
        typed(&mut screen, KeyCode::Char('x'));
        screen.hear(News::People(vec![person("carol", true)]));
        assert_eq!(screen.with, ALL);
        assert!(typed(&mut screen, KeyCode::Enter).is_empty(), "what was for bob goes to nobody else");
        screen.hear(News::People(vec![person("carol", true)]));
        screen.turn_to("carol");
        screen.hear(News::People(vec![person("bob", true)]));
        assert!(drawn(&mut screen, 80, 20).contains("carol is no member any more"));
        assert_eq!(screen.hear(News::Over("gone".to_owned())), [Deed::Leave(Some("gone".to_owned()))]);
    }
}
