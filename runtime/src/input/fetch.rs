//! Gets input pictures from where the router says, and makes sure that they are those it meant.

use bytes::Bytes;
use egress::{Request, StatusCode};
use runtime_api::InputSource;
use sha2::{Digest, Sha256};

use super::MAX_INPUT_BYTES;
use crate::signed_url::{self, SignedClient, TransferError};

/// Why an input could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("an input's address is not an http address")]
    Source,
    #[error("the {name} answered {status} where the dispatch says it is")]
    Refused { name: &'static str, status: StatusCode },
    #[error("the {name} cannot be reached where the dispatch says it is")]
    Reach { name: &'static str, source: TransferError },
    #[error("the {name} has more than {MAX_INPUT_BYTES} bytes; send a smaller one")]
    TooLarge { name: &'static str },
    #[error("the {name} is another one than the request names: its sha256 is {found}")]
    OtherDigest { name: &'static str, found: String },
}

/// Gets inputs; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Fetcher {
    client: SignedClient,
}

impl Fetcher {
    /// Whether `source` can be tried at all.
    ///
    /// # Errors
    /// [`FetchError::Source`].
    pub fn check(source: &InputSource) -> Result<(), FetchError> {
        if signed_url::is_http(&source.get_url) { Ok(()) } else { Err(FetchError::Source) }
    }

    /// The bytes of one input, which messages call `name`.
    ///
    /// # Errors
    /// [`FetchError`] of the last attempt, after at most [`signed_url::MAX_ATTEMPTS`].
    pub async fn get(&self, source: &InputSource, name: &'static str) -> Result<Vec<u8>, FetchError> {
        let mut pause = signed_url::FIRST_PAUSE;
        let mut attempt = 1;
        let file = loop {
            let error = match self.get_once(source, name).await {
                Ok(file) => break file,
                Err(error) => error,
            };
            if attempt >= signed_url::MAX_ATTEMPTS || !is_worth_retrying(&error) {
                return Err(error);
            }
            tracing::warn!(attempt, %error, "input was not fetched; trying again");
            tokio::time::sleep(pause).await;
            attempt += 1;
            pause *= 2;
        };
        let found = hex::encode(Sha256::digest(&file));
        if found.eq_ignore_ascii_case(&source.sha256) { Ok(file) } else { Err(FetchError::OtherDigest { name, found }) }
    }

    async fn get_once(&self, source: &InputSource, name: &'static str) -> Result<Vec<u8>, FetchError> {
        match self.client.send(&source.get_url, Request::new(Bytes::new()), MAX_INPUT_BYTES).await {
            Ok((StatusCode::OK, file)) => Ok(file.into()),
            Ok((status, _)) => Err(FetchError::Refused { name, status }),
            Err(TransferError::TooLarge { .. }) => Err(FetchError::TooLarge { name }),
            Err(source) => Err(FetchError::Reach { name, source }),
        }
    }
}

fn is_worth_retrying(error: &FetchError) -> bool {
    match error {
        FetchError::Reach { source, .. } => source.is_passing(),
        FetchError::Refused { status, .. } => signed_url::is_passing(*status),
        FetchError::Source | FetchError::TooLarge { .. } | FetchError::OtherDigest { .. } => false,
    }
}
