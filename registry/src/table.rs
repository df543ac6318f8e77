//! Who is where: the registry's state, without I/O and without a clock of its own.
//!
//! Invariants: a record is in `records` exactly once, under its token and device, and its lease in `leases`; a client
//! hears only of tokens it registered itself; every list has a bound. What callers send is checked before anything is
//! changed: a refused message changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use crypto::DeviceId;
use peer_net::frame;
use peer_net::registry_protocol::{Announcement, Notice, RECORDS_PER_NOTICE, Record, Register, Token};
use thiserror::Error;

use crate::limits::Limits;

/// One connection. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

/// Why a message is refused. The text goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Over the limit of tokens.
    #[error("{found} tokens, at most {most} allowed")]
    Tokens {
        /// In the message.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// Over the limit of addresses.
    #[error("{found} addresses in a record, at most {most} allowed")]
    Addresses {
        /// In the record.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// The same token twice.
    #[error("a token is there twice")]
    Duplicate,
    /// Somebody else's, or damaged.
    #[error("the record's signature is not this device's")]
    Forged,
    /// So many devices share a token.
    #[error("this token has its {0} records already")]
    TokenFull(usize),
    /// The registry is full.
    #[error("the registry is full, try another or later")]
    Full,
}

/// What became of an accepted message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// News for clients.
    pub pushes: Vec<Push>,
    /// Tokens the client did not hear of before: it must be told who is there, by [`Table::page`].
    pub unread: Vec<Token>,
}

/// A frame for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Whom it is for.
    pub to: ClientId,
    /// The encoded [`Notice`].
    pub frame: Bytes,
}

#[derive(Debug)]
struct Entry {
    announcement: Announcement,
    lease_ends: Duration,
    owner: ClientId,
}

#[derive(Debug)]
struct Client {
    device: DeviceId,
    observed: SocketAddr,
    offers: BTreeSet<Token>,
    watches: BTreeSet<Token>,
}

/// The state.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    next_client: u64,
    clients: HashMap<ClientId, Client>,
    records: HashMap<Token, BTreeMap<DeviceId, Entry>>,
    count: usize,
    leases: BTreeSet<(Duration, Token, DeviceId)>,
    watchers: HashMap<Token, HashSet<ClientId>>,
}

impl Table {
    /// An empty registry.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next_client: 0,
            clients: HashMap::new(),
            records: HashMap::new(),
            count: 0,
            leases: BTreeSet::new(),
            watchers: HashMap::new(),
        }
    }

    /// Takes a connection in.
    pub fn join(&mut self, device: DeviceId, observed: SocketAddr) -> Result<ClientId, Refusal> {
        if self.clients.len() >= self.limits.clients {
            return Err(Refusal::Full);
        }
        let id = ClientId(self.next_client);
        self.next_client += 1;
        let client = Client { device, observed, offers: BTreeSet::new(), watches: BTreeSet::new() };
        self.clients.insert(id, client);
        Ok(id)
    }

    /// Lets a connection go. What a client that said goodbye offered goes at once; of one that was lost, it stays for
    /// the rest of its lease: the device may be there all the same.
    pub fn leave(&mut self, id: ClientId, goodbye: bool) -> Vec<Push> {
        let Some(client) = self.clients.remove(&id) else {
            return Vec::new();
        };
        for token in client.watches.union(&client.offers) {
            self.unwatch(token, id);
        }
        let mut pushes = Vec::new();
        if goodbye {
            for token in &client.offers {
                self.withdraw(token, &client.device, Some(id), &mut pushes);
            }
        }
        pushes
    }

    /// Replaces what a client offers and watches.
    pub fn register(&mut self, now: Duration, id: ClientId, message: Register) -> Result<Registered, Refusal> {
        let Some(client) = self.clients.get(&id) else {
            return Ok(Registered::default());
        };
        let (device, observed) = (client.device, client.observed);
        self.check(&device, &message)?;
        let (old_offers, old_watches) = (client.offers.clone(), client.watches.clone());
        let heard: BTreeSet<Token> = old_offers.union(&old_watches).copied().collect();

        let offers: BTreeSet<Token> = message.records.iter().map(|record| record.token).collect();
        let watches: BTreeSet<Token> = message.watch.iter().copied().collect();
        let mut pushes = Vec::new();
        for token in old_offers.difference(&offers) {
            self.withdraw(token, &device, Some(id), &mut pushes);
        }
        let now_heard: BTreeSet<Token> = offers.union(&watches).copied().collect();
        for token in heard.difference(&now_heard) {
            self.unwatch(token, id);
        }
        let unread: Vec<Token> = now_heard.difference(&heard).copied().collect();
        for token in &unread {
            self.watchers.entry(*token).or_default().insert(id);
        }
        for record in message.records {
            self.offer(now, id, Announcement { device, record, observed }, &mut pushes);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.offers = offers;
            client.watches = watches;
        }
        Ok(Registered { pushes, unread })
    }

    /// Returns a notice of the next devices of a token after `after`, without the reader's own, and the last of them.
    ///
    /// Page by page, so that a reader who is slow makes nobody else hold all of them in memory.
    pub fn page(&self, token: &Token, reader: &DeviceId, after: Option<DeviceId>) -> Option<(Bytes, DeviceId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let devices = self.records.get(token)?.range((from, Bound::Unbounded));
        let page: Vec<Announcement> = devices
            .filter(|(device, _)| *device != reader)
            .take(RECORDS_PER_NOTICE)
            .map(|(_, entry)| entry.announcement.clone())
            .collect();
        let last = page.last()?.device;
        Some((encode(&Notice::Here(page)), last))
    }

    /// Drops every record whose lease ended.
    pub fn expire(&mut self, now: Duration) -> Vec<Push> {
        let mut pushes = Vec::new();
        while let Some(&(ends, token, device)) = self.leases.first() {
            if ends > now {
                break;
            }
            self.withdraw(&token, &device, None, &mut pushes);
        }
        pushes
    }

    /// Returns when the next lease ends.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.leases.first().map(|(ends, ..)| *ends)
    }

    /// Returns how many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Returns how many records there are.
    pub fn records(&self) -> usize {
        self.count
    }

    /// Returns how many tokens have records.
    pub fn tokens(&self) -> usize {
        self.records.len()
    }

    fn check(&self, device: &DeviceId, message: &Register) -> Result<(), Refusal> {
        let found = message.records.len() + message.watch.len();
        if found > self.limits.tokens {
            return Err(Refusal::Tokens { found, most: self.limits.tokens });
        }
        let mut seen = BTreeSet::new();
        let tokens = message.records.iter().map(|record| &record.token).chain(&message.watch);
        if !tokens.into_iter().all(|token| seen.insert(token)) {
            return Err(Refusal::Duplicate);
        }
        let mut new = 0;
        for record in &message.records {
            self.check_record(device, record)?;
            new += usize::from(!self.has(&record.token, device));
        }
        if self.count + new > self.limits.records {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn check_record(&self, device: &DeviceId, record: &Record) -> Result<(), Refusal> {
        let found = record.addresses.len();
        if found > self.limits.addresses {
            return Err(Refusal::Addresses { found, most: self.limits.addresses });
        }
        let others = self.records.get(&record.token).map_or(0, BTreeMap::len);
        if others >= self.limits.records_per_token && !self.has(&record.token, device) {
            return Err(Refusal::TokenFull(self.limits.records_per_token));
        }
        record.verify(device).map_err(|_| Refusal::Forged)
    }

    fn has(&self, token: &Token, device: &DeviceId) -> bool {
        self.records.get(token).is_some_and(|devices| devices.contains_key(device))
    }

    /// Stores a checked record; tells the others if it is new or its addresses changed, not when it is only renewed.
    fn offer(&mut self, now: Duration, owner: ClientId, announcement: Announcement, pushes: &mut Vec<Push>) {
        let (token, device) = (announcement.record.token, announcement.device);
        let lease_ends = now + self.limits.lease;
        let news = encode(&Notice::Here(vec![announcement.clone()]));
        let same_places =
            |a: &Announcement, b: &Announcement| a.observed == b.observed && a.record.addresses == b.record.addresses;
        let entry = Entry { announcement: announcement.clone(), lease_ends, owner };
        let old = self.records.entry(token).or_default().insert(device, entry);
        self.leases.insert((lease_ends, token, device));
        let changed = match old {
            None => {
                self.count += 1;
                true
            }
            Some(old) => {
                if old.lease_ends != lease_ends {
                    self.leases.remove(&(old.lease_ends, token, device));
                }
                // Another owner means that the device came back: the others try it again at once.
                old.owner != owner || !same_places(&old.announcement, &announcement)
            }
        };
        if changed {
            self.push_to_watchers(&token, &device, &news, pushes);
        }
    }

    /// Removes a record, but with `owner` only if that client's was the last to offer it.
    fn withdraw(&mut self, token: &Token, device: &DeviceId, owner: Option<ClientId>, pushes: &mut Vec<Push>) {
        let Some(devices) = self.records.get_mut(token) else {
            return;
        };
        if owner.is_some_and(|owner| devices.get(device).is_some_and(|entry| entry.owner != owner)) {
            return;
        }
        let Some(entry) = devices.remove(device) else {
            return;
        };
        if devices.is_empty() {
            self.records.remove(token);
        }
        self.count -= 1;
        self.leases.remove(&(entry.lease_ends, *token, *device));
        let news = encode(&Notice::Gone { token: *token, device: *device });
        self.push_to_watchers(token, device, &news, pushes);
    }

    fn push_to_watchers(&self, token: &Token, about: &DeviceId, frame: &Bytes, pushes: &mut Vec<Push>) {
        let Some(watchers) = self.watchers.get(token) else {
            return;
        };
        let others = watchers.iter().filter(|id| self.clients.get(id).is_some_and(|c| c.device != *about));
        pushes.extend(others.map(|to| Push { to: *to, frame: frame.clone() }));
    }

    fn unwatch(&mut self, token: &Token, id: ClientId) {
        if let Some(watchers) = self.watchers.get_mut(token) {
            watchers.remove(&id);
            if watchers.is_empty() {
                self.watchers.remove(token);
            }
        }
    }
}

fn encode(notice: &Notice) -> Bytes {
    frame::encode(notice).into()
}

#[cfg(test)]
mod tests {
    use crypto::{Entropy, SeededEntropy, SigningKeys};

    use super::*;

    const A: Token = Token::from_bytes([1; 32]);
    const B: Token = Token::from_bytes([2; 32]);

    struct Peer {
        keys: SigningKeys,
        device: DeviceId,
    }

    fn peer(seed: u64) -> Peer {
        let keys = SigningKeys::from_seed(SeededEntropy::new(seed).array());
        let device = DeviceId::from_bytes(*keys.public().as_bytes());
        Peer { keys, device }
    }

    fn place(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    impl Peer {
        fn offer(&self, tokens: &[Token]) -> Register {
            let sign = |token: &Token| Record::sign(&self.keys, *token, &[place(1)]);
            Register { records: tokens.iter().map(sign).collect(), watch: Vec::new() }
        }
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Registers, and reads all pages as the server would.
    fn register(table: &mut Table, now: Duration, id: ClientId, message: Register) -> Vec<Push> {
        let Registered { mut pushes, unread } = table.register(now, id, message).unwrap();
        let reader = table.clients[&id].device;
        for token in unread {
            let mut after = None;
            while let Some((frame, last)) = table.page(&token, &reader, after) {
                pushes.push(Push { to: id, frame });
                after = Some(last);
            }
        }
        pushes
    }

    /// Who was told of which devices coming (`+`) and going (`-`).
    fn news(pushes: &[Push]) -> Vec<(ClientId, char, DeviceId)> {
        pushes
            .iter()
            .flat_map(|push| match frame::decode::<Notice>(&push.frame).unwrap() {
                Notice::Here(all) => all.into_iter().map(|a| (push.to, '+', a.device)).collect(),
                Notice::Gone { device, .. } => vec![(push.to, '-', device)],
                Notice::Accepted { .. } | Notice::Refused(_) => Vec::new(),
            })
            .collect()
    }

    #[test]
    fn peers_of_one_token_hear_of_each_other_and_others_do_not() {
        let mut table = Table::new(Limits::default());
        let (alice, bob, carol) = (peer(1), peer(2), peer(3));
        let a = table.join(alice.device, place(11)).unwrap();
        let b = table.join(bob.device, place(12)).unwrap();
        let c = table.join(carol.device, place(13)).unwrap();
        assert_eq!(news(&register(&mut table, at(0), a, alice.offer(&[A]))), []);
        assert_eq!(news(&register(&mut table, at(0), c, carol.offer(&[B]))), []);
        let pushes = register(&mut table, at(0), b, bob.offer(&[A]));
        assert_eq!(news(&pushes), [(a, '+', bob.device), (b, '+', alice.device)]);
        assert_eq!(news(&table.leave(b, true)), [(a, '-', bob.device)]);
        assert_eq!((table.clients(), table.records()), (2, 2));
    }

    #[test]
    fn a_renewal_is_no_news_and_a_lease_ends() {
        let mut table = Table::new(Limits::default());
        let (alice, bob) = (peer(1), peer(2));
        let a = table.join(alice.device, place(11)).unwrap();
        let b = table.join(bob.device, place(12)).unwrap();
        register(&mut table, at(0), a, alice.offer(&[A]));
        register(&mut table, at(0), b, bob.offer(&[A]));
        assert_eq!(news(&register(&mut table, at(300), a, alice.offer(&[A]))), []);
        assert_eq!(table.next_expiry(), Some(at(600)));
        assert_eq!(news(&table.expire(at(600))), [(a, '-', bob.device)]);
        assert_eq!(table.next_expiry(), Some(at(900)));
        assert_eq!(news(&table.expire(at(900))), [(b, '-', alice.device)]);
        assert_eq!((table.records(), table.tokens()), (0, 0));
    }

    #[test]
    fn a_lost_connection_keeps_the_lease_and_a_new_one_takes_it_over() {
        let mut table = Table::new(Limits::default());
        let (alice, bob) = (peer(1), peer(2));
        let old = table.join(alice.device, place(11)).unwrap();
        let b = table.join(bob.device, place(12)).unwrap();
        register(&mut table, at(0), old, alice.offer(&[A]));
        register(&mut table, at(0), b, bob.offer(&[A]));
        let new = table.join(alice.device, place(11)).unwrap();
        let pushes = register(&mut table, at(10), new, alice.offer(&[A]));
        assert_eq!(news(&pushes), [(b, '+', alice.device), (new, '+', bob.device)]);
        assert_eq!(news(&table.leave(old, true)), [], "the old connection owns nothing any more");
        assert_eq!(table.records(), 2);
        assert_eq!(news(&table.leave(new, false)), []);
        assert_eq!(table.records(), 2);
    }

    #[test]
    fn who_only_watches_is_not_seen() {
        let mut table = Table::new(Limits::default());
        let (alice, bob) = (peer(1), peer(2));
        let a = table.join(alice.device, place(11)).unwrap();
        let b = table.join(bob.device, place(12)).unwrap();
        let watch = Register { records: Vec::new(), watch: vec![A] };
        register(&mut table, at(0), b, watch);
        assert_eq!(news(&register(&mut table, at(0), a, alice.offer(&[A]))), [(b, '+', alice.device)]);
        // What is not offered any more is withdrawn.
        assert_eq!(news(&register(&mut table, at(0), a, alice.offer(&[B]))), [(b, '-', alice.device)]);
    }

    #[test]
    fn every_limit_refuses_and_changes_nothing() {
        let limits =
            Limits { tokens: 2, addresses: 2, records_per_token: 1, records: 2, clients: 3, ..Limits::default() };
        let mut table = Table::new(limits);
        let (alice, bob, carol) = (peer(1), peer(2), peer(3));
        let a = table.join(alice.device, place(11)).unwrap();
        let b = table.join(bob.device, place(12)).unwrap();
        let c = table.join(carol.device, place(13)).unwrap();
        assert_eq!(table.join(alice.device, place(14)), Err(Refusal::Full));
        let token = |n| Token::from_bytes([n; 32]);

        let mut refused = |id, message, refusal| {
            let before = table.records();
            assert_eq!(table.register(at(0), id, message), Err(refusal));
            assert_eq!(table.records(), before);
        };
        refused(a, alice.offer(&[token(1), token(2), token(3)]), Refusal::Tokens { found: 3, most: 2 });
        refused(a, alice.offer(&[A, A]), Refusal::Duplicate);
        refused(a, bob.offer(&[A]), Refusal::Forged);
        let mut wide = alice.offer(&[]);
        wide.records.push(Record::sign(&alice.keys, A, &[place(1), place(2), place(3)]));
        refused(a, wide, Refusal::Addresses { found: 3, most: 2 });
        register(&mut table, at(0), a, alice.offer(&[A]));
        assert_eq!(table.register(at(0), b, bob.offer(&[A])), Err(Refusal::TokenFull(1)));
        register(&mut table, at(0), b, bob.offer(&[B]));
        assert_eq!(table.register(at(0), c, carol.offer(&[token(3)])), Err(Refusal::Full));
        table.register(at(0), b, bob.offer(&[B])).expect("renewing needs no room");
    }

    #[test]
    fn a_crowd_comes_in_pages() {
        let mut table = Table::new(Limits::default());
        let crowd = 2 * RECORDS_PER_NOTICE as u64 + 1;
        for seed in 0..crowd {
            let one = peer(seed);
            let id = table.join(one.device, place(1)).unwrap();
            register(&mut table, at(0), id, one.offer(&[A]));
        }
        let reader = peer(crowd);
        let id = table.join(reader.device, place(2)).unwrap();
        let pushes = register(&mut table, at(0), id, Register { records: Vec::new(), watch: vec![A] });
        assert_eq!(pushes.len(), 3);
        assert_eq!(news(&pushes).len() as u64, crowd);
    }
}
