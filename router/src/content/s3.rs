//! Content as objects of a bucket: imports put chunks there themselves, replicas get them there, and any number of routers share them.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use runtime_api::{ChunkPlace, MANIFEST_LIMIT_BYTES};
use uuid::Uuid;

use super::{Chunk, ContentError, ContentStore, Document, Kind, LISTED_LIMIT, Listed, Object, Place};
use crate::s3::{AnsweredAs, Audience, Bucket};
use crate::sha256_name::Sha256Name;

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

    async fn listed(&self, kind: Kind, prefix: &str) -> Result<Vec<Listed>, ContentError> {
        let (mut found, mut next) = (Vec::new(), None);
        loop {
            let (page, more) = self.bucket.list(prefix, next).await?;
            found.extend(page.into_iter().filter_map(|object| {
                let name = object.path.rsplit('/').next()?.split('.').next()?;
                Some(Listed { object: kind.object(Sha256Name::parse(name)?), modified: object.modified, path: object.path })
            }));
            next = more;
            if next.is_none() || found.len() >= LISTED_LIMIT {
                return Ok(found);
            }
        }
    }
}

fn folder(place: Place) -> String {
    match place {
        Place::Used => FOLDER.to_owned(),
        Place::Discarded => format!("{FOLDER}/discarded"),
    }
}

fn object_path(place: Place, object: Object) -> String {
    let folder = folder(place);
    match object {
        Object::Chunk(name) => format!("{folder}/chunks/{}/{}", &name.text()[..2], name.text()),
        Object::Manifest(name) => format!("{folder}/manifests/{}.json", name.text()),
    }
}

fn chunk_path(chunk: Chunk) -> String {
    object_path(Place::Used, Object::Chunk(chunk.name))
}

fn document_path(document: Document) -> String {
    match document {
        Document::Manifest(name) => object_path(Place::Used, Object::Manifest(name)),
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

    async fn list(&self, place: Place, kind: Kind) -> Result<Vec<Listed>, ContentError> {
        match kind {
            Kind::Chunks { first_digit } => self.listed(kind, &format!("{}/chunks/{first_digit:x}", folder(place))).await,
            Kind::Manifests => self.listed(kind, &format!("{}/manifests/", folder(place))).await,
        }
    }

    /// A copy first: where it ends after that, the object is at both places, which does no harm.
    async fn discard(&self, object: Object) -> Result<(), ContentError> {
        let copy = format!("{}.{}", object_path(Place::Discarded, object), Uuid::now_v7().simple());
        if self.bucket.copy(&object_path(Place::Used, object), &copy).await? {
            self.bucket.remove(&object_path(Place::Used, object)).await?;
        }
        Ok(())
    }

    /// The copy that is out of use goes in its time.
    async fn restore(&self, object: Object) -> Result<bool, ContentError> {
        for copy in self.listed(object.kind(), &object_path(Place::Discarded, object)).await? {
            if self.bucket.copy(&copy.path, &object_path(Place::Used, object)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn forget(&self, listed: &Listed) -> Result<(), ContentError> {
        Ok(self.bucket.remove(&listed.path).await?)
    }
}
