//! What fetching inputs and storing outputs share: the client for URLs that were signed for one purpose. They are secrets and appear in
//! no log and no message.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use egress::{AddressRules, EgressError, Request, StatusCode, Url};
use tokio::time::timeout;

/// How often one transfer is tried.
pub const MAX_ATTEMPTS: u32 = 4;
/// Pause before the second attempt; it doubles from attempt to attempt.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// One attempt, the answer included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer to one attempt.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("the address {0}")]
    Egress(#[from] EgressError),
    #[error("there was no whole answer within {} s", ATTEMPT_TIMEOUT.as_secs())]
    Timeout,
    #[error("there are more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
}

impl TransferError {
    /// Whether another attempt may end otherwise.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Timeout | Self::Egress(EgressError::Unreachable | EgressError::Broken))
    }
}

/// Goes where the router says and nowhere else: a redirect would send the picture, and the signature, elsewhere. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SignedClient(Arc<egress::Client>);

impl Default for SignedClient {
    fn default() -> Self {
        Self(Arc::new(egress::Client::new(AddressRules::anywhere())))
    }
}

impl SignedClient {
    /// One attempt: the status, and what came with it.
    ///
    /// # Errors
    /// [`TransferError`]; what was asked for is in none of them.
    pub(crate) async fn send(&self, url: &str, request: Request<Bytes>, limit_bytes: usize) -> Result<(StatusCode, Bytes), TransferError> {
        let url = Url::parse(url).map_err(|_| EgressError::Unreachable)?;
        let attempt = async {
            let (head, mut body) = self.0.send(&url, request).await?.into_parts();
            let mut bytes = BytesMut::new();
            while let Some(chunk) = body.chunk().await? {
                if bytes.len() + chunk.len() > limit_bytes {
                    return Err(TransferError::TooLarge { limit_bytes });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok((head.status, bytes.freeze()))
        };
        timeout(ATTEMPT_TIMEOUT, attempt).await.unwrap_or(Err(TransferError::Timeout))
    }
}

/// Whether `url` can be tried at all.
pub(crate) fn is_http(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Whether an answer may be another one soon.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_are_tried() {
        for url in ["http://127.0.0.1:1/a?s=1", "https://store.example/a"] {
            assert!(is_http(url), "{url}");
        }
        for url in ["", "file:///etc/passwd", "ftp://a/b", "http://", "127.0.0.1/a"] {
            assert!(!is_http(url), "{url}");
        }
    }

    #[test]
    fn answers_that_will_not_change_are_not_tried_again() {
        assert!(!is_passing(StatusCode::FORBIDDEN) && !is_passing(StatusCode::FOUND));
        assert!(is_passing(StatusCode::SERVICE_UNAVAILABLE) && is_passing(StatusCode::TOO_MANY_REQUESTS));
    }
}
