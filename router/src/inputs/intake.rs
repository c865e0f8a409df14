//! Takes a call's pictures in: brings their bytes here, looks at them, and stores them. Bounded in number, bytes and time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::picture::{self, PictureError};
use super::{Fetcher, InputError, InputStore, Picture, PictureSource, Size};
use crate::refusal::Refusal;

/// Pictures that are fetched or looked at at once, by all callers together.
const PICTURES_AT_ONCE: usize = 32;
/// How long a picture waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// A picture that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub sha256: String,
    pub size: Size,
}

/// Takes pictures in.
#[derive(Debug)]
pub struct Intake {
    pub(crate) store: Arc<dyn InputStore>,
    fetcher: Fetcher,
    turns: Semaphore,
}

impl Intake {
    pub fn new(store: Arc<dyn InputStore>, fetcher: Fetcher) -> Self {
        Self { store, fetcher, turns: Semaphore::new(PICTURES_AT_ONCE) }
    }

    /// A picture as it is. Durable when it returns.
    pub async fn take(&self, picture: Picture) -> Result<Taken, Refusal> {
        self.take_as(picture, Ok).await
    }

    /// A picture whose transparent area becomes the white of a mask. Durable when it returns.
    pub async fn take_transparency(&self, picture: Picture) -> Result<Taken, Refusal> {
        self.take_as(picture, |bytes| picture::mask_of_transparency(&bytes)).await
    }

    async fn take_as(&self, picture: Picture, convert: fn(Bytes) -> Result<Bytes, PictureError>) -> Result<Taken, Refusal> {
        let Picture { field, source } = picture;
        let Ok(Ok(_turn)) = timeout(TURN_TIMEOUT, self.turns.acquire()).await else {
            return Err(Refusal::NoCapacity { retry_after: TURN_TIMEOUT });
        };
        let bytes = match source {
            PictureSource::Bytes(bytes) => bytes,
            PictureSource::Url(url) => self.fetcher.fetch(&url).await.map_err(|error| {
                tracing::info!(host = url.host_str(), "a picture was not fetched: {field} {error}");
                invalid(field, format!("Unable to fetch image from provided URL: {field} {error}"))
            })?,
        };
        // Looking at a picture may take a while: never on a thread that serves calls.
        let looked = tokio::task::spawn_blocking(move || {
            let bytes = convert(bytes)?;
            picture::size(&bytes).map(|size| (bytes, size))
        });
        let (bytes, size) = match looked.await {
            Ok(looked) => looked.map_err(|error| invalid(field, format!("{field} {error}")))?,
            Err(error) => {
                tracing::error!("a picture could not be looked at: {error}");
                return Err(Refusal::Internal);
            }
        };
        match self.store.put(bytes).await {
            Ok(sha256) => Ok(Taken { sha256, size }),
            Err(error @ InputError::Full { .. }) => {
                tracing::error!("{error}");
                Err(Refusal::NoCapacity { retry_after: TURN_TIMEOUT })
            }
            Err(error) => {
                tracing::error!("{error}");
                Err(Refusal::Internal)
            }
        }
    }
}

fn invalid(field: &str, message: String) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::picture::tests::{bomb, png};
    use crate::inputs::{AddressRules, FolderInputs};
    use crate::outputs::Secret;

    fn intake() -> (Intake, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(FolderInputs::open(folder.path(), Secret::from_bytes([5; 32])).unwrap());
        (Intake::new(store, Fetcher::new(AddressRules::default())), folder)
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_refused_with_its_field_and_not_kept() {
        let (intake, folder) = intake();
        for (bytes, reason) in [
            (bomb(50_000, 50_000), "init_image is too large"),
            (Bytes::from_static(b"<svg/>"), "init_image is no picture that is read here: a PNG, JPEG or WebP file is needed"),
        ] {
            let refusal = intake.take(Picture::from_bytes("init_image", bytes).unwrap()).await.unwrap_err();
            assert!(refusal.to_string().starts_with(reason), "{refusal}");
        }
        let inside = Picture::from_text("init_image", "http://127.0.0.2/latest/meta-data").unwrap();
        let refusal = intake.take(inside).await.unwrap_err().to_string();
        assert_eq!(refusal, "Unable to fetch image from provided URL: init_image leads to an address that is not public");
        let opaque = Picture::from_bytes("mask", png(8, 8)).unwrap();
        assert!(intake.take_transparency(opaque).await.unwrap_err().to_string().starts_with("mask has no transparent pixels"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the folder for what is being written");
    }

    #[tokio::test]
    async fn what_can_be_used_is_stored_with_its_size() {
        let (intake, _folder) = intake();
        let taken = intake.take(Picture::from_bytes("init_image", png(8, 6)).unwrap()).await.unwrap();
        assert_eq!((taken.sha256.len(), taken.size), (64, Size { width: 8, height: 6 }));
    }
}
