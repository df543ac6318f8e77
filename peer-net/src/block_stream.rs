//! Blocks over a stream of their own: one request, the blocks in its order, done.
//!
//! Request: `kind u8 = 1 ‖ count u8 ‖ count hashes`. Answer: per hash `length u32 LE ‖ bytes`, length 0 for a block
//! that isn't there. The asker hands each block on as soon as it is whole; the server reads ahead by one portion while
//! it sends another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crypto::{BLOCK_SIZE, stored_len};
use quinn::{Connection, RecvStream, SendStream};
use thiserror::Error;
use tokio::time::timeout;
use volume::content::BlockHash;
use volume::sync::{Session, SessionError};

use crate::blocking::blocking;
use crate::close::Abandoned;

/// What the first byte of a stream says that asks for blocks.
pub(crate) const KIND: u8 = 1;
/// How many blocks one request may name.
pub(crate) const MAX_BATCH: usize = 32;
/// How many blocks are read from disk at a time.
const PORTION: usize = 8;
/// How long a stream may stand still. The other end promised an answer; blocks asked for there are asked nowhere else.
const STALL: Duration = Duration::from_secs(30);

/// Why blocks did not come or go.
#[derive(Debug, Error)]
pub(crate) enum BlockError {
    #[error("bad request for blocks")]
    BadRequest,
    #[error("block of {0} bytes")]
    TooLong(usize),
    #[error("stream of blocks stood still")]
    Stalled,
    #[error("stream of blocks broke: {0}")]
    Broken(String),
    #[error("bad block: {0}")]
    Misbehaved(String),
}

impl BlockError {
    /// Whether an honest peer never causes it.
    pub(crate) fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::BadRequest | Self::TooLong(_) | Self::Misbehaved(_))
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Asks for claimed blocks and gives them to the session as they come.
///
/// After an error some of them are neither arrived nor failed: the session has to be closed, which gives them back.
pub(crate) async fn fetch(
    connection: &Connection,
    session: &Arc<Session>,
    hashes: Vec<BlockHash>,
    on_arrival: impl Fn(),
) -> Result<(), BlockError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(BlockError::broken)?;
    send.write_all(&request(&hashes)).await.map_err(BlockError::broken)?;
    send.finish().map_err(BlockError::broken)?;

    // One storing job at a time, so that blocks of one stream are stored in order while the next ones arrive.
    let mut storing: Option<tokio::task::JoinHandle<Result<(), BlockError>>> = None;
    let mut waiting: Vec<(BlockHash, Vec<u8>)> = Vec::new();
    for hash in hashes {
        match receive_block(&mut receive).await? {
            None => session.block_lacking(&hash),
            Some(bytes) => waiting.push((hash, bytes)),
        }
        if storing.as_ref().is_some_and(|job| !job.is_finished()) {
            continue;
        }
        if let Some(job) = storing.take() {
            finished(job).await?;
            on_arrival();
        }
        if !waiting.is_empty() {
            storing = Some(store(session, std::mem::take(&mut waiting)));
        }
    }
    if let Some(job) = storing {
        finished(job).await?;
    }
    if !waiting.is_empty() {
        finished(store(session, waiting)).await?;
    }
    on_arrival();
    Ok(())
}

fn request(hashes: &[BlockHash]) -> Vec<u8> {
    let count = u8::try_from(hashes.len()).expect("a batch is at most 32 hashes");
    let mut bytes = Vec::with_capacity(2 + hashes.len() * BlockHash::LEN);
    bytes.extend_from_slice(&[KIND, count]);
    for hash in hashes {
        bytes.extend_from_slice(hash.as_bytes());
    }
    bytes
}

fn store(session: &Arc<Session>, blocks: Vec<(BlockHash, Vec<u8>)>) -> tokio::task::JoinHandle<Result<(), BlockError>> {
    let session = session.clone();
    tokio::task::spawn_blocking(move || session.blocks_arrived(&blocks).map_err(BlockError::from))
}

impl From<SessionError> for BlockError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Misbehaved(rule) => Self::Misbehaved(rule),
            SessionError::Failed(why) => Self::Broken(why),
        }
    }
}

async fn finished(job: tokio::task::JoinHandle<Result<(), BlockError>>) -> Result<(), BlockError> {
    job.await.map_err(BlockError::broken)?
}

async fn receive_block(stream: &mut RecvStream) -> Result<Option<Vec<u8>>, BlockError> {
    let mut header = [0; 4];
    read_exact(stream, &mut header).await?;
    let len = u32::from_le_bytes(header) as usize;
    if len > stored_len(BLOCK_SIZE) {
        return Err(BlockError::TooLong(len));
    }
    if len == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    read_exact(stream, &mut bytes).await?;
    Ok(Some(bytes))
}

/// Fills `buf`; the time limit counts anew with every piece.
pub(crate) async fn read_exact(stream: &mut RecvStream, mut buf: &mut [u8]) -> Result<(), BlockError> {
    while !buf.is_empty() {
        match timeout(STALL, stream.read(buf)).await {
            Err(_) => return Err(BlockError::Stalled),
            Ok(Err(error)) => return Err(BlockError::broken(error)),
            Ok(Ok(None)) => return Err(BlockError::Broken("ended early".to_owned())),
            Ok(Ok(Some(read))) => buf = &mut buf[read..],
        }
    }
    Ok(())
}

/// Answers one request, of which the first byte was read.
pub(crate) async fn serve(session: Arc<Session>, send: SendStream, mut receive: RecvStream) -> Result<(), BlockError> {
    let mut send = Abandoned::new(send);
    let hashes = receive_request(&mut receive).await?;
    let mut portions = hashes.chunks(PORTION).map(<[BlockHash]>::to_vec);
    let read = |portion: Vec<BlockHash>| {
        let session = session.clone();
        tokio::spawn(blocking(move || portion.iter().map(|hash| session.serve_block(hash)).collect::<Vec<_>>()))
    };
    let mut ahead = portions.next().map(read);
    while let Some(job) = ahead {
        let blocks = job.await.map_err(BlockError::broken)?;
        ahead = portions.next().map(read);
        for block in blocks {
            let block = block.unwrap_or_default();
            let len = u32::try_from(block.len()).map_err(BlockError::broken)?;
            let mut parts = [Bytes::copy_from_slice(&len.to_le_bytes()), Bytes::from(block)];
            // Who asks and doesn't read gives its place up.
            let sent = timeout(STALL, send.write_all_chunks(&mut parts)).await;
            sent.map_err(|_| BlockError::Stalled)?.map_err(BlockError::broken)?;
        }
    }
    send.finish().map_err(BlockError::broken)
}

async fn receive_request(receive: &mut RecvStream) -> Result<Vec<BlockHash>, BlockError> {
    let mut count = [0];
    read_exact(receive, &mut count).await?;
    let count = usize::from(count[0]);
    if count == 0 || count > MAX_BATCH {
        return Err(BlockError::BadRequest);
    }
    let mut bytes = vec![0; count * BlockHash::LEN];
    read_exact(receive, &mut bytes).await?;
    if timeout(STALL, receive.read(&mut [0]))
        .await
        .map_err(|_| BlockError::Stalled)?
        .map_err(BlockError::broken)?
        .is_some()
    {
        return Err(BlockError::BadRequest);
    }
    bytes.chunks_exact(BlockHash::LEN).map(|hash| BlockHash::try_from(hash).map_err(BlockError::broken)).collect()
}
