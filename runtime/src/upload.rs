//! Puts finished images where the router wants them. The target URL is a secret: it appears in no log and no message.

use bytes::Bytes;
use egress::header::{CONTENT_TYPE, IF_NONE_MATCH};
use egress::{Request, StatusCode};
use runtime_api::{OutputFormat, OutputTarget};

use crate::signed_url::{self, SignedClient};
pub use crate::signed_url::{MAX_ATTEMPTS, TransferError};

/// Of an answer to a PUT: a store says why it refuses, and nobody reads it.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// Why an image could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the image's target is not an http address")]
    Target,
    #[error("the image's target answered {status}")]
    Refused { status: StatusCode },
    #[error("the image's target cannot be reached")]
    Reach { source: TransferError },
}

/// Stores images; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Uploader {
    client: SignedClient,
}

impl Uploader {
    /// Whether `target` can be tried at all.
    ///
    /// # Errors
    /// [`UploadError::Target`].
    pub fn check(target: &OutputTarget) -> Result<(), UploadError> {
        if signed_url::is_http(&target.put_url) { Ok(()) } else { Err(UploadError::Target) }
    }

    /// Puts one file. That the target is there already counts as stored: outputs are written once, and an earlier attempt may have been it.
    ///
    /// # Errors
    /// [`UploadError`] of the last attempt, after at most [`MAX_ATTEMPTS`].
    pub async fn put(&self, target: &OutputTarget, file: Bytes, format: OutputFormat) -> Result<(), UploadError> {
        let mut pause = signed_url::FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match self.put_once(target, file.clone(), format).await {
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

    async fn put_once(&self, target: &OutputTarget, file: Bytes, format: OutputFormat) -> Result<(), UploadError> {
        let put = Request::put("/").header(CONTENT_TYPE, format.media_type()).header(IF_NONE_MATCH, "*").body(file);
        // Only what is written here is in the request, and that can be sent.
        let put = put.map_err(|_| UploadError::Target)?;
        let answer = self.client.send(&target.put_url, put, ANSWER_LIMIT_BYTES).await;
        match answer.map_err(|source| UploadError::Reach { source })?.0 {
            status if status.is_success() => Ok(()),
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Ok(()),
            status => Err(UploadError::Refused { status }),
        }
    }
}

fn is_worth_retrying(error: &UploadError) -> bool {
    match error {
        UploadError::Reach { source } => source.is_passing(),
        UploadError::Refused { status } => signed_url::is_passing(*status),
        UploadError::Target => false,
    }
}
