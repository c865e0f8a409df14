//! What fetching inputs and storing outputs share: the client for URLs that were signed for one purpose. They are secrets and appear in
//! no log and no message.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};

/// How often one transfer is tried.
pub const MAX_ATTEMPTS: u32 = 4;
/// Pause before the second attempt; it doubles from attempt to attempt.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// One attempt, the answer included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that goes where the router says and nowhere else: a redirect would send the picture, and the signature, elsewhere.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder().redirect(Policy::none()).connect_timeout(CONNECT_TIMEOUT).timeout(ATTEMPT_TIMEOUT).build()
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
