//! The weights that were imported: chunks and documents, each written once and named by the sha256 of its bytes. Imports put chunks here with
//! URLs that were signed for one chunk; replicas get them with URLs that were signed for reading. It knows no models and no sources.
//!
//! ```text
//! import ─ places ─► PUT chunks ─► store ◄─ GET chunks ─ listing ◄─ replica
//!        └ publish(manifest): every chunk is there? ─► visible
//! ```
//! Nothing can be read before its manifest is there, and that comes last: half an import is nothing.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use runtime_api::{
    CHUNK_BYTES, CHUNKS_ASKED_LIMIT, ChunkPlace, ChunksAsked, ContentListing, ContentManifest, ContentSource, ManifestError, Published,
};

use crate::outputs::Secret;
use crate::s3::S3Error;
use crate::sha256_name::Sha256Name;
use crate::signature;

mod collection;
#[cfg(test)]
mod collection_contract;
#[cfg(test)]
mod contract;
mod folder;
pub(crate) mod routes;
mod s3;

pub use collection::Collected;
pub use folder::FolderContent;
pub use routes::{folder_routes, listing_routes};
pub use s3::S3Content;

/// An import puts a chunk soon after it asked where.
const PUT_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// A replica that takes longer asks for the listing again.
const GET_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// Chunks that are looked for at once.
const LOOKS_AT_ONCE: usize = 16;
/// Objects of one listing; what is beyond them waits for another round.
const LISTED_LIMIT: usize = 200_000;
/// Keeps the signatures for reading listings apart from all others of the secret.
const LISTING: &[u8] = b"content listing\0";

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("the folder for content {path} cannot be made: {source}; name a folder this user may write to")]
    Open { path: String, source: std::io::Error },
    #[error("the content cannot be read: {0}")]
    Read(#[source] std::io::Error),
    #[error("the content cannot be written: {0}")]
    Write(#[source] std::io::Error),
    #[error("no space is left for content")]
    Full,
    #[error("the chunk is not what its name says: its sha256 is {found}")]
    OtherChunk { found: String },
    #[error("{asked} chunks are asked for; 1 to {CHUNKS_ASKED_LIMIT} are possible")]
    AskedTooMany { asked: usize },
    #[error("a chunk must be named by its sha256 and have 1 to {CHUNK_BYTES} bytes")]
    Asked,
    #[error("the manifest is not valid: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the manifest names the chunk {chunk}, which is not in the store")]
    ChunkMissing { chunk: String },
    #[error(transparent)]
    S3(#[from] S3Error),
}

impl ContentError {
    /// Whether who asked is at fault, and not the store.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::OtherChunk { .. }
                | Self::AskedTooMany { .. }
                | Self::Asked
                | Self::Malformed(_)
                | Self::Manifest(_)
                | Self::ChunkMissing { .. }
        )
    }
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chunk {
    pub name: Sha256Name,
    pub bytes: u64,
}

/// What the router itself writes, small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// Named by its own sha256.
    Manifest(Sha256Name),
    /// What became of a source, named by the sha256 of what was declared.
    Import(Sha256Name),
}

/// What can be out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Chunk(Sha256Name),
    Manifest(Sha256Name),
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where everybody looks.
    Used,
    /// Out of use, and there for who asks for it by name.
    Discarded,
}

/// Objects that are listed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Those whose name begins with this hexadecimal digit: no listing grows without end.
    Chunks {
        first_digit: u8,
    },
    Manifests,
}

impl Object {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Chunk(name) => Kind::Chunks { first_digit: name.bytes()[0] >> 4 },
            Self::Manifest(_) => Kind::Manifests,
        }
    }

    pub fn name(&self) -> &Sha256Name {
        match self {
            Self::Chunk(name) | Self::Manifest(name) => name,
        }
    }
}

impl Kind {
    pub(crate) fn object(self, name: Sha256Name) -> Object {
        match self {
            Self::Chunks { .. } => Object::Chunk(name),
            Self::Manifests => Object::Manifest(name),
        }
    }
}

/// An object in a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    pub object: Object,
    /// When it came to where it is.
    pub modified: SystemTime,
    /// What the store calls it there. An object that is discarded again has another name than before.
    pub(crate) path: String,
}

/// Keeps chunks and documents. URLs may be relative: they are then meant from where whoever got them asked.
#[async_trait]
pub trait ContentStore: Send + Sync + Debug {
    /// Whether the chunk is there, with all its bytes.
    async fn has(&self, chunk: Chunk) -> Result<bool, ContentError>;
    /// Where the chunk is put, once, until `expires`. What is put must have its sha256.
    async fn place(&self, chunk: Chunk, expires: SystemTime) -> Result<ChunkPlace, ContentError>;
    /// Where the chunk is read until `expires`.
    async fn url(&self, chunk: Chunk, expires: SystemTime) -> Result<String, ContentError>;
    /// The document, or `None` while it is not there.
    async fn read(&self, document: Document) -> Result<Option<Bytes>, ContentError>;
    /// Puts a document, whether one is there or not. Durable when it returns.
    async fn write(&self, document: Document, bytes: Bytes) -> Result<(), ContentError>;
    /// At most [`LISTED_LIMIT`] objects.
    async fn list(&self, place: Place, kind: Kind) -> Result<Vec<Listed>, ContentError>;
    /// Takes an object out of use; what is not there is out of use.
    async fn discard(&self, object: Object) -> Result<(), ContentError>;
    /// Takes an object into use again; whether it was there.
    async fn restore(&self, object: Object) -> Result<bool, ContentError>;
    /// Removes what was listed as out of use, and nothing that came there since.
    async fn forget(&self, listed: &Listed) -> Result<(), ContentError>;
}

/// The store, and what is to be known about what is in it.
#[derive(Clone, Debug)]
pub struct Content {
    store: Arc<dyn ContentStore>,
    links: ContentLinks,
}

/// Makes the URLs of listings, and knows its own.
#[derive(Clone, Debug)]
pub struct ContentLinks(Secret);

impl ContentLinks {
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Where a replica finds out what is in the manifest and where its chunks are, until `expires`. `base` is the address at which it reaches
    /// the router.
    pub fn source(&self, base: &str, digest: &str, expires: SystemTime) -> ContentSource {
        let query = signature::query(&self.0, LISTING, digest.as_bytes(), expires);
        ContentSource { digest: digest.to_owned(), listing_url: format!("{base}/content/manifests/{digest}?{query}") }
    }

    fn allow(&self, digest: &str, expires: u64, signature: &str) -> bool {
        signature::is_good(&self.0, LISTING, digest.as_bytes(), expires, signature, SystemTime::now())
    }
}

impl Content {
    pub fn new(store: Arc<dyn ContentStore>, secret: Secret) -> Self {
        Self { store, links: ContentLinks::new(secret) }
    }

    pub fn links(&self) -> &ContentLinks {
        &self.links
    }

    /// Where each chunk goes, in the order of the question.
    pub async fn places(&self, asked: &ChunksAsked) -> Result<Vec<ChunkPlace>, ContentError> {
        if asked.chunks.is_empty() || asked.chunks.len() > CHUNKS_ASKED_LIMIT {
            return Err(ContentError::AskedTooMany { asked: asked.chunks.len() });
        }
        let chunk = |sha256: &str, bytes| chunk(sha256, bytes).ok_or(ContentError::Asked);
        let chunks = asked.chunks.iter().map(|asked| chunk(&asked.sha256, asked.bytes)).collect::<Result<Vec<_>, _>>()?;
        let expires = SystemTime::now() + PUT_LIFETIME;
        let place = async |chunk| {
            if self.has(chunk).await? {
                return Ok(ChunkPlace { put_url: None, headers: Vec::new() });
            }
            self.store.place(chunk, expires).await
        };
        futures::stream::iter(chunks).map(place).buffered(LOOKS_AT_ONCE).try_collect().await
    }

    /// Makes a manifest visible, if it is sound and everything that it names is there.
    pub async fn publish(&self, bytes: Bytes) -> Result<Published, ContentError> {
        let manifest: ContentManifest = serde_json::from_slice(&bytes)?;
        manifest.check()?;
        let chunks: Vec<Chunk> = manifest.chunks().into_iter().filter_map(|(sha256, bytes)| chunk(sha256, bytes)).collect();
        self.look_for(&chunks).await?;
        let name = Sha256Name::of(&bytes);
        self.store.write(Document::Manifest(name), bytes).await?;
        // What was discarded before the manifest could be seen is in use again after this.
        self.look_for(&chunks).await?;
        Ok(Published { digest: name.text() })
    }

    /// Whether the chunk is there, also if it was out of use.
    async fn has(&self, chunk: Chunk) -> Result<bool, ContentError> {
        Ok(self.store.has(chunk).await? || self.store.restore(Object::Chunk(chunk.name)).await? && self.store.has(chunk).await?)
    }

    async fn look_for(&self, chunks: &[Chunk]) -> Result<(), ContentError> {
        let look = async |chunk: Chunk| match self.has(chunk).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ContentError::ChunkMissing { chunk: chunk.name.text() }),
            Err(error) => Err(error),
        };
        futures::stream::iter(chunks.iter().copied()).map(look).buffer_unordered(LOOKS_AT_ONCE).try_collect::<()>().await
    }

    /// The manifest's bytes, also if it was out of use.
    async fn read_manifest(&self, digest: Sha256Name) -> Result<Option<Bytes>, ContentError> {
        if let Some(bytes) = self.store.read(Document::Manifest(digest)).await? {
            return Ok(Some(bytes));
        }
        if !self.store.restore(Object::Manifest(digest)).await? {
            return Ok(None);
        }
        self.store.read(Document::Manifest(digest)).await
    }

    /// The manifest, or `None` where there is none of that digest.
    pub async fn manifest(&self, digest: Sha256Name) -> Result<Option<ContentManifest>, ContentError> {
        let bytes = self.read_manifest(digest).await?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// The manifest and where its chunks are now. `look` for who did not find them there: chunks that were out of use are not any more then.
    pub async fn listing(&self, digest: Sha256Name, look: bool) -> Result<Option<ContentListing>, ContentError> {
        let Some(bytes) = self.read_manifest(digest).await? else { return Ok(None) };
        let manifest: ContentManifest = serde_json::from_slice(&bytes)?;
        if look {
            let chunks: Vec<Chunk> = manifest.chunks().into_iter().filter_map(|(sha256, bytes)| chunk(sha256, bytes)).collect();
            self.look_for(&chunks).await?;
        }
        let expires = SystemTime::now() + GET_LIFETIME;
        let mut chunk_urls = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let chunks = file.sized_chunks().filter_map(|(sha256, bytes)| chunk(sha256, bytes));
            let mut urls = Vec::new();
            for chunk in chunks {
                urls.push(self.store.url(chunk, expires).await?);
            }
            chunk_urls.push(urls);
        }
        // It was JSON a moment ago.
        let manifest = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Some(ContentListing { manifest, chunk_urls }))
    }

    pub(crate) async fn read(&self, document: Document) -> Result<Option<Bytes>, ContentError> {
        self.store.read(document).await
    }

    pub(crate) async fn write(&self, document: Document, bytes: Bytes) -> Result<(), ContentError> {
        self.store.write(document, bytes).await
    }
}

fn chunk(sha256: &str, bytes: u64) -> Option<Chunk> {
    let name = Sha256Name::parse(sha256)?;
    (1..=CHUNK_BYTES).contains(&bytes).then_some(Chunk { name, bytes })
}
