//! Puts finished images where the router wants them. The target URL is a secret: it appears in no log and no message.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, IF_NONE_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use runtime_api::OutputTarget;

/// How often one image is tried.
pub const MAX_ATTEMPTS: u32 = 4;
/// Pause before the second attempt; it doubles from attempt to attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// One attempt, the answer included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an image could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the http client could not be made")]
    MakeClient { source: reqwest::Error },
    #[error("the image's target is not an http address")]
    Target,
    #[error("the image's target answered {status}")]
    Refused { status: StatusCode },
    #[error("the image's target cannot be reached")]
    Reach { source: reqwest::Error },
}

/// Stores images; cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploader {
    client: Client,
}

impl Uploader {
    /// # Errors
    /// [`UploadError::MakeClient`].
    pub fn new() -> Result<Self, UploadError> {
        let client = Client::builder()
            // A redirect would send the image, and the signature, where the router did not say.
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .map_err(|source| UploadError::MakeClient { source })?;
        Ok(Self { client })
    }

    /// Whether `target` can be tried at all.
    ///
    /// # Errors
    /// [`UploadError::Target`].
    pub fn check(target: &OutputTarget) -> Result<(), UploadError> {
        match reqwest::Url::parse(&target.put_url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(()),
            _ => Err(UploadError::Target),
        }
    }

    /// Puts one PNG. That the target is there already counts as stored: outputs are written once, and an earlier attempt may have been it.
    ///
    /// # Errors
    /// [`UploadError`] of the last attempt, after at most [`MAX_ATTEMPTS`].
    pub async fn put(&self, target: &OutputTarget, png: Bytes) -> Result<(), UploadError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match self.put_once(target, png.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if attempt >= MAX_ATTEMPTS || !is_worth_retrying(&error) {
                return Err(error);
            }
            tracing::warn!(attempt, %error, "image was not stored; trying again");
            tokio::time::sleep(pause).await;
            attempt += 1;
            pause *= 2;
        }
    }

    async fn put_once(&self, target: &OutputTarget, png: Bytes) -> Result<(), UploadError> {
        let put = self.client.put(&target.put_url).header(CONTENT_TYPE, "image/png").header(IF_NONE_MATCH, "*").body(png);
        let answer = put.send().await.map_err(|source| UploadError::Reach { source: source.without_url() })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Ok(()),
            status => Err(UploadError::Refused { status }),
        }
    }
}

fn is_worth_retrying(error: &UploadError) -> bool {
    match error {
        UploadError::Reach { source } => !source.is_builder(),
        UploadError::Refused { status } => {
            status.is_server_error() || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        }
        UploadError::Target | UploadError::MakeClient { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(put_url: &str) -> OutputTarget {
        OutputTarget { put_url: put_url.to_owned() }
    }

    #[test]
    fn only_http_addresses_are_targets() {
        for url in ["http://127.0.0.1:1/a?s=1", "https://store.example/a"] {
            assert!(Uploader::check(&target(url)).is_ok(), "{url}");
        }
        for url in ["", "file:///etc/passwd", "ftp://a/b", "http://", "127.0.0.1/a"] {
            assert!(Uploader::check(&target(url)).is_err(), "{url}");
        }
    }

    #[test]
    fn answers_that_will_not_change_are_not_tried_again() {
        let refused = |status| UploadError::Refused { status };
        assert!(!is_worth_retrying(&refused(StatusCode::FORBIDDEN)));
        assert!(!is_worth_retrying(&refused(StatusCode::FOUND)));
        assert!(is_worth_retrying(&refused(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(is_worth_retrying(&refused(StatusCode::TOO_MANY_REQUESTS)));
    }
}
