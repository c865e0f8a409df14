//! Reads a request's body within a number of bytes and a time, whatever its sender announced. It knows no routes and no dialects.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("the body did not arrive in time")]
    TimedOut,
    /// The connection ended, or its framing was wrong.
    #[error("the body did not arrive whole")]
    Broken,
}

/// The whole body. One that announces more than `limit_bytes` is refused before any of it is read; one that announces nothing (chunked)
/// is refused as soon as it exceeds the limit. `within` is the time for all of it, so that a slow sender cannot stay.
pub async fn read_bounded(headers: &HeaderMap, body: Body, limit_bytes: usize, within: Duration) -> Result<Bytes, BodyError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit_bytes as u64) {
        return Err(BodyError::TooLarge { limit_bytes });
    }
    tokio::time::timeout(within, collect(body, limit_bytes)).await.unwrap_or(Err(BodyError::TimedOut))
}

async fn collect(body: Body, limit_bytes: usize) -> Result<Bytes, BodyError> {
    let mut collected = BytesMut::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| BodyError::Broken)?;
        if chunk.len() > limit_bytes - collected.len() {
            return Err(BodyError::TooLarge { limit_bytes });
        }
        collected.extend_from_slice(&chunk);
    }
    Ok(collected.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn chunked(chunks: Vec<&'static [u8]>) -> Body {
        Body::from_stream(futures::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn chunked_body_is_read_up_to_the_limit_and_no_further() {
        let headers = HeaderMap::new();
        assert_eq!(read_bounded(&headers, chunked(vec![b"abc", b"de"]), 5, SOON).await, Ok(Bytes::from_static(b"abcde")));
        assert_eq!(read_bounded(&headers, chunked(vec![b"abc", b"def"]), 5, SOON).await, Err(BodyError::TooLarge { limit_bytes: 5 }));
    }

    #[tokio::test]
    async fn announced_size_over_the_limit_is_refused_unread() {
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "6".parse().unwrap())]);
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_bounded(&headers, never, 5, SOON).await, Err(BodyError::TooLarge { limit_bytes: 5 }));
    }

    #[tokio::test]
    async fn body_that_never_ends_times_out() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read_bounded(&HeaderMap::new(), never, 5, Duration::from_millis(1)).await, Err(BodyError::TimedOut));
    }

    #[tokio::test]
    async fn broken_connection_is_told_from_a_large_body() {
        let broken = Body::from_stream(futures::stream::iter([Ok(Bytes::from_static(b"a")), Err(std::io::Error::other("reset"))]));
        assert_eq!(read_bounded(&HeaderMap::new(), broken, 5, SOON).await, Err(BodyError::Broken));
    }
}
