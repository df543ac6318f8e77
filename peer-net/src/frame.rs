//! Frames on a stream: `length u32 LE ‖ that many bytes`.
//!
//! A length above the reader's maximum is refused before anything is allocated, and a buffer grows only as bytes
//! really arrive. Values in frames are MessagePack by position; what follows a value is refused.

use std::io::Cursor;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why no frame came.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The sender claims more than the reader takes.
    #[error("frame of {len} bytes, at most {max} allowed")]
    TooLong {
        /// The claimed length.
        len: usize,
        /// The reader's maximum.
        max: usize,
    },
    /// The stream ended within a frame.
    #[error("stream ended within a frame")]
    Truncated,
    /// The bytes are not the value that belongs here.
    #[error("not a valid message: {0}")]
    Malformed(String),
    /// The stream broke.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

const HEADER: usize = 4;
/// By how much the buffer grows at a time.
const STEP: usize = 64 << 10;

/// Reads frames off a stream.
///
/// [`next`](FrameReader::next) may be dropped half-way (a `select!`) without losing anything: what was read stays
/// here for the next call.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    max: usize,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream` frames of at most `max` bytes.
    pub fn new(stream: R, max: usize) -> Self {
        Self { stream, max, buffer: Vec::new() }
    }

    /// Changes the maximum, for frames that follow.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The stream, after the last frame that was read.
    pub(crate) fn into_inner(self) -> R {
        self.stream
    }

    /// Returns the next frame, or `None` when the sender finished the stream after a whole one.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            let wanted = match self.buffer.first_chunk::<HEADER>() {
                None => HEADER,
                Some(header) => {
                    let len = u32::from_le_bytes(*header) as usize;
                    if len > self.max {
                        return Err(FrameError::TooLong { len, max: self.max });
                    }
                    HEADER + len
                }
            };
            // With less than a whole header the buffer is shorter than `wanted`.
            if self.buffer.len() == wanted {
                let mut frame = std::mem::take(&mut self.buffer);
                frame.drain(..HEADER);
                return Ok(Some(frame));
            }
            let missing = (wanted - self.buffer.len()).min(STEP);
            self.buffer.reserve(missing);
            if (&mut self.stream).take(missing as u64).read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    /// Returns the next frame's value, or `None` at the end of the stream.
    pub async fn next_value<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        self.next().await?.map(|frame| decode(&frame)).transpose()
    }

    /// Returns the next frame's value where the stream must not have ended.
    pub async fn expect_value<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        self.next_value().await?.ok_or(FrameError::Truncated)
    }
}

/// Writes one frame.
pub async fn write_frame<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &[u8]) -> Result<(), FrameError> {
    let len =
        u32::try_from(bytes.len()).map_err(|_| FrameError::TooLong { len: bytes.len(), max: u32::MAX as usize })?;
    stream.write_all(&len.to_le_bytes()).await?;
    stream.write_all(bytes).await?;
    Ok(())
}

/// Writes one value as a frame.
pub async fn write_value<W: AsyncWrite + Unpin, T: Serialize>(stream: &mut W, value: &T) -> Result<(), FrameError> {
    write_frame(stream, &encode(value)).await
}

/// Encodes a value of ours.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("our own messages consist of plain fields and encode into memory")
}

/// Decodes a stranger's bytes; nothing may follow the value.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let malformed = |error: &dyn std::fmt::Display| FrameError::Malformed(error.to_string());
    let mut cursor = Cursor::new(bytes);
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut cursor)).map_err(|e| malformed(&e))?;
    if cursor.position() != bytes.len() as u64 {
        return Err(malformed(&"bytes after the value"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let mut stream = Vec::new();
        for frame in [&b"one"[..], b"", &[7; 200_000]] {
            write_frame(&mut stream, frame).await.unwrap();
        }
        let mut reader = FrameReader::new(&stream[..], 200_000);
        assert_eq!(reader.next().await.unwrap().unwrap(), b"one");
        assert_eq!(reader.next().await.unwrap().unwrap(), b"");
        assert_eq!(reader.next().await.unwrap().unwrap(), [7; 200_000]);
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let header = 101_u32.to_le_bytes();
        let error = FrameReader::new(&header[..], 100).next().await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong { len: 101, max: 100 }), "{error}");
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error() {
        let mut stream = Vec::new();
        write_frame(&mut stream, b"whole").await.unwrap();
        for cut in [1, 4, 8] {
            let error = FrameReader::new(&stream[..cut], 100).next().await.unwrap_err();
            assert!(matches!(error, FrameError::Truncated), "cut at {cut}: {error}");
        }
    }

    #[tokio::test]
    async fn a_dropped_read_loses_nothing() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(far, 100);
        let mut bytes = Vec::new();
        write_frame(&mut bytes, b"in two pieces").await.unwrap();
        near.write_all(&bytes[..7]).await.unwrap();
        tokio::select! {
            biased;
            frame = reader.next() => panic!("half a frame gave {frame:?}"),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        near.write_all(&bytes[7..]).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), b"in two pieces");
    }

    #[test]
    fn bytes_after_a_value_are_refused() {
        let mut bytes = encode(&(1_u32, "x"));
        assert_eq!(decode::<(u32, String)>(&bytes).unwrap(), (1, "x".to_owned()));
        bytes.push(0);
        assert!(matches!(decode::<(u32, String)>(&bytes), Err(FrameError::Malformed(_))));
    }
}
