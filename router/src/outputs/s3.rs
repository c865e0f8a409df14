//! Outputs as objects of a bucket: replicas put them there themselves, callers get them there, and any number of routers share them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use runtime_api::OutputFormat;
use uuid::Uuid;

use super::signing::OutputName;
use super::{OUTPUT_LIMIT_BYTES, OutputError, OutputStore, Secret};
use crate::s3::{AnsweredAs, Audience, Bucket, S3Error};

/// Folder of outputs below the bucket's prefix.
const FOLDER: &str = "outputs";
/// A caller follows a link at once; somebody who was shown the signed URL can use it for this long.
const LINK_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// An output never changes once it is there.
const CACHE_CONTROL: &str = "private, max-age=31536000, immutable";

/// Keeps outputs in a bucket. Routers with one secret and one bucket name the same objects.
#[derive(Debug)]
pub struct S3Outputs {
    bucket: Arc<Bucket>,
    secret: Secret,
}

impl S3Outputs {
    pub fn new(bucket: Arc<Bucket>, secret: Secret) -> Self {
        Self { bucket, secret }
    }

    /// Where a caller gets the output now, or `None` while it is not there.
    pub(super) async fn link(&self, name: &OutputName) -> Result<Option<String>, OutputError> {
        let path = path(name);
        if self.bucket.head(&path).await?.is_none() {
            return Ok(None);
        }
        // Whatever a replica put there is shown as the image it should be, never as a page.
        let answer = AnsweredAs { media_type: name.format().media_type(), cache_control: CACHE_CONTROL };
        Ok(Some(self.bucket.signed_get(Audience::Callers, &path, answer, SystemTime::now() + LINK_LIFETIME).await?))
    }

    pub(super) async fn size(&self, name: &OutputName) -> Result<Option<u64>, OutputError> {
        Ok(self.bucket.head(&path(name)).await?.map(|head| head.bytes))
    }

    fn path_of(&self, generation: Uuid, image: u32, format: OutputFormat) -> String {
        path(&OutputName::new(&self.secret, generation, image, format))
    }
}

fn path(name: &OutputName) -> String {
    format!("{FOLDER}/{}/{}", name.folder_name(), name.file_name())
}

#[async_trait]
impl OutputStore for S3Outputs {
    fn public_path(&self, generation: Uuid, image: u32, format: OutputFormat) -> String {
        format!("/outputs/{}", OutputName::new(&self.secret, generation, image, format).file_name())
    }

    async fn signed_put_url(
        &self,
        _base: &str,
        generation: Uuid,
        image: u32,
        format: OutputFormat,
        expires: SystemTime,
    ) -> Result<String, OutputError> {
        Ok(self.bucket.signed_put_once(&self.path_of(generation, image, format), format.media_type(), expires).await?)
    }

    async fn read(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<Option<Bytes>, OutputError> {
        match self.bucket.read(&self.path_of(generation, image, format), OUTPUT_LIMIT_BYTES).await {
            Err(S3Error::TooLarge { .. }) => Err(OutputError::TooLarge),
            read => Ok(read?),
        }
    }

    /// A signed URL cannot bound what is put with it, so the size is looked at here, before anybody is billed.
    async fn exists(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<bool, OutputError> {
        match self.bucket.head(&self.path_of(generation, image, format)).await? {
            Some(head) if head.bytes > OUTPUT_LIMIT_BYTES as u64 => Err(OutputError::TooLarge),
            found => Ok(found.is_some()),
        }
    }

    async fn remove(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<(), OutputError> {
        Ok(self.bucket.remove(&self.path_of(generation, image, format)).await?)
    }
}
