//! Inputs as objects of a bucket, named by their sha256: any router brings them, any replica gets them there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::{InputError, InputStore};
use crate::s3::{AnsweredAs, Audience, Bucket};
use crate::sha256_name::Sha256Name;

/// Folder of inputs below the bucket's prefix.
const FOLDER: &str = "inputs/";
/// What a caller sent is never shown as what it claims to be.
const ANSWER: AnsweredAs = AnsweredAs { media_type: "application/octet-stream", cache_control: "no-store" };

/// Keeps inputs in a bucket.
#[derive(Debug)]
pub struct S3Inputs {
    bucket: Arc<Bucket>,
}

impl S3Inputs {
    pub fn new(bucket: Arc<Bucket>) -> Self {
        Self { bucket }
    }

    async fn is_old(&self, path: &str, retention: Duration) -> Result<bool, InputError> {
        Ok(self.bucket.head(path).await?.is_some_and(|head| is_older(head.modified, retention)))
    }
}

fn path(sha256: &str) -> String {
    format!("{FOLDER}{sha256}")
}

fn is_older(modified: SystemTime, retention: Duration) -> bool {
    modified.elapsed().unwrap_or(Duration::ZERO) >= retention
}

#[async_trait]
impl InputStore for S3Inputs {
    /// Put again even if it is there: its time of retention begins anew.
    async fn put(&self, bytes: Bytes) -> Result<String, InputError> {
        let sha256 = Sha256Name::of(&bytes).text();
        self.bucket.write(&path(&sha256), ANSWER.media_type, bytes).await?;
        Ok(sha256)
    }

    async fn signed_get_url(&self, _base: &str, sha256: &str, expires: SystemTime) -> Result<String, InputError> {
        let name = Sha256Name::parse(sha256).unwrap_or(Sha256Name::NOTHING);
        Ok(self.bucket.signed_get(Audience::Replicas, &path(&name.text()), ANSWER, expires).await?)
    }

    async fn sweep(&self, needed: &HashSet<String>, retention: Duration) -> Result<usize, InputError> {
        let (mut removed, mut next) = (0, None);
        loop {
            let (page, more) = self.bucket.list(FOLDER, next).await?;
            for object in page.iter().filter(|object| is_older(object.modified, retention)) {
                let is_needed = object.path.strip_prefix(FOLDER).is_some_and(|sha256| needed.contains(sha256));
                // Looked at once more: another router may have put it again since the list was made.
                if !is_needed && self.is_old(&object.path, retention).await? {
                    self.bucket.remove(&object.path).await?;
                    removed += 1;
                }
            }
            if more.is_none() {
                return Ok(removed);
            }
            next = more;
        }
    }
}
