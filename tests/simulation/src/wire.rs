//! Connections: two sessions and what is on its way between them.
//!
//! As on QUIC, what one side says comes in order, and blocks have streams beside that. A connection that breaks
//! takes with it whatever was on its way.

use std::collections::VecDeque;

use volume::{BlockHash, Session};

/// Messages on their way that one side may have sent ahead: as with flow control, no more are made then.
const AHEAD: usize = 6;

/// One direction.
#[derive(Default)]
pub(crate) struct Lane {
    /// Encoded messages.
    pub control: VecDeque<Vec<u8>>,
    /// Blocks that this side asked for.
    pub asks: VecDeque<BlockHash>,
    /// What came of it.
    pub answers: VecDeque<(BlockHash, Option<Vec<u8>>)>,
}

/// See the module.
pub(crate) struct Connection {
    pub ends: [usize; 2],
    pub sessions: [Session; 2],
    /// By who speaks and asks.
    pub lanes: [Lane; 2],
}

impl Connection {
    /// Begins with what both say first.
    pub(crate) fn new(ends: [usize; 2], sessions: [Session; 2]) -> Self {
        let mut lanes = [Lane::default(), Lane::default()];
        for (lane, session) in lanes.iter_mut().zip(&sessions) {
            lane.control.extend(session.opening().iter().map(volume::Message::encode));
        }
        Connection { ends, sessions, lanes }
    }

    /// Whether it is between these two.
    pub(crate) fn joins(&self, a: usize, b: usize) -> bool {
        self.ends == [a, b] || self.ends == [b, a]
    }

    /// Has one side say something, if it has anything to say and the way is free. Returns what it was.
    pub(crate) fn talk(&mut self, side: usize) -> Option<Vec<u8>> {
        if self.lanes[side].control.len() >= AHEAD {
            return None;
        }
        let message = self.sessions[side].next_outgoing()?.encode();
        self.lanes[side].control.push_back(message.clone());
        Some(message)
    }

    /// Has one side ask for up to `max` blocks. Returns for how many it did.
    pub(crate) fn ask(&mut self, side: usize, max: usize) -> usize {
        if self.lanes[side].asks.len() >= 4 * AHEAD {
            return 0;
        }
        let wanted = self.sessions[side].wanted(max);
        let count = wanted.len();
        self.lanes[side].asks.extend(wanted);
        count
    }
}
