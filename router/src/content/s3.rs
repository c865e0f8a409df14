//! Content as objects of a bucket: imports put chunks there themselves, replicas get them there, and any number of routers share them.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use runtime_api::{ChunkPlace, MANIFEST_LIMIT_BYTES};

use super::{Chunk, ContentError, ContentStore, Document};
use crate::s3::{AnsweredAs, Audience, Bucket};

/// Folder of content below the bucket's prefix.
const FOLDER: &str = "content";
const CHUNK: AnsweredAs = AnsweredAs { media_type: "application/octet-stream", cache_control: "no-store" };
const DOCUMENT_MEDIA_TYPE: &str = "application/json";

/// Keeps content in a bucket.
#[derive(Debug)]
pub struct S3Content {
    bucket: Arc<Bucket>,
}

impl S3Content {
    pub fn new(bucket: Arc<Bucket>) -> Self {
        Self { bucket }
    }
}

fn chunk_path(chunk: Chunk) -> String {
    let name = chunk.name.text();
    format!("{FOLDER}/chunks/{}/{name}", &name[..2])
}

fn document_path(document: Document) -> String {
    match document {
        Document::Manifest(name) => format!("{FOLDER}/manifests/{}.json", name.text()),
        Document::Import(name) => format!("{FOLDER}/imports/{}.json", name.text()),
    }
}

#[async_trait]
impl ContentStore for S3Content {
    async fn has(&self, chunk: Chunk) -> Result<bool, ContentError> {
        Ok(self.bucket.head(&chunk_path(chunk)).await?.is_some_and(|head| head.bytes == chunk.bytes))
    }

    /// The store itself compares what is put with the sha256.
    async fn place(&self, chunk: Chunk, expires: SystemTime) -> Result<ChunkPlace, ContentError> {
        let (url, headers) = self.bucket.signed_put_of(&chunk_path(chunk), CHUNK.media_type, chunk.name.bytes(), expires).await?;
        Ok(ChunkPlace { put_url: Some(url), headers })
    }

    async fn url(&self, chunk: Chunk, expires: SystemTime) -> Result<String, ContentError> {
        Ok(self.bucket.signed_get(Audience::Replicas, &chunk_path(chunk), CHUNK, expires).await?)
    }

    async fn read(&self, document: Document) -> Result<Option<Bytes>, ContentError> {
        Ok(self.bucket.read(&document_path(document), MANIFEST_LIMIT_BYTES).await?)
    }

    async fn write(&self, document: Document, bytes: Bytes) -> Result<(), ContentError> {
        Ok(self.bucket.write(&document_path(document), DOCUMENT_MEDIA_TYPE, bytes).await?)
    }
}
