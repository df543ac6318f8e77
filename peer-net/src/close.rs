//! Closing connections: the codes, and how the farewell gets through.
//!
//! The transport holds a farewell back while there is unsent data and the congestion window is full, and once a
//! connection is closed, nothing empties the window any more: the other end would hear nothing, and believe in the
//! connection for as long as it may be idle. So whoever ends a busy connection first abandons its streams
//! (`Abandoned`) and lets what is under way arrive (`drain`).

use std::time::Duration;

use quinn::{Connection, SendStream, VarInt};

/// How long a peer that doesn't acknowledge anything is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// This device ends, or needs the connection no more.
pub const GOODBYE: VarInt = VarInt::from_u32(0);
/// The volume's key was not proven.
pub const NOT_A_MEMBER: VarInt = VarInt::from_u32(2);
/// There is a better connection between the two already.
pub const DUPLICATE: VarInt = VarInt::from_u32(3);
/// The other end sent what an honest one never sends.
pub const MISBEHAVED: VarInt = VarInt::from_u32(4);
/// A join was refused; the reason was told.
pub const REFUSED: VarInt = VarInt::from_u32(5);
/// The other end took too long.
pub const TOO_SLOW: VarInt = VarInt::from_u32(6);
/// Something failed on this side.
pub const FAILED: VarInt = VarInt::from_u32(7);
/// The other end was removed from the volume.
pub const REMOVED: VarInt = VarInt::from_u32(8);

/// Waits until what was sent on `connection` is acknowledged, so that there is room for the farewell.
///
/// An empty stream is opened for that: its end leaves when the window has room for it, after everything else.
pub(crate) async fn drain(connection: &Connection) {
    let drained = async {
        if let Ok((mut send, _receive)) = connection.open_bi().await
            && send.finish().is_ok()
        {
            let _either_way = send.stopped().await;
        }
    };
    let _too_slow = tokio::time::timeout(PATIENCE, drained).await;
}

/// A stream whose unsent data is worth nothing once its owner is gone.
#[derive(Debug)]
pub(crate) struct Abandoned {
    stream: SendStream,
    finished: bool,
}

impl Abandoned {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    /// Says that everything was written: it may arrive after the owner is gone.
    pub(crate) fn finish(mut self) -> Result<(), quinn::ClosedStream> {
        self.finished = true;
        self.stream.finish()
    }
}

impl std::ops::Deref for Abandoned {
    type Target = SendStream;

    fn deref(&self) -> &SendStream {
        &self.stream
    }
}

impl std::ops::DerefMut for Abandoned {
    fn deref_mut(&mut self) -> &mut SendStream {
        &mut self.stream
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if !self.finished {
            // Fails when the other end doesn't want it anyway.
            let _unwanted = self.stream.reset(GOODBYE);
        }
    }
}
