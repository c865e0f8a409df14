//! Models that were imported, on this machine's disk: fetched from the content store when a dispatch names them, each chunk checked as it
//! comes, and kept until others need the place.
//!
//! ```text
//! dispatch ─ digest, signed URL ─► listing (the manifest, where its chunks are) ─► chunks, checked ─► unfinished/DIGEST ─ rename ─► DIGEST
//! ```
//! Several processes may share the folder. A lock on `DIGEST.lock` says what is being done with an entry: exclusive while it is fetched or
//! removed, shared while somebody uses it. The system gives locks back however a process ends.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use egress::{AddressRules, Client, EgressError};
use runtime_api::{CONTENT_SCHEME, ContentManifest, ContentSource, FailureReason, ManifestError};

mod entries;
mod fetch;

use entries::{Entries, Entry};

/// Between two looks at an entry that another process is busy with.
const BUSY_INTERVAL: Duration = Duration::from_millis(200);
/// Hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 64;

/// Why content cannot be used here. URLs are secrets and stand in none of them.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("this replica keeps no content; start it with --content-cache")]
    NoCache,
    #[error("the dispatch does not say where the content {digest} is")]
    Missing { digest: String },
    #[error("{digest:?} is not the digest of any content")]
    Digest { digest: String },
    #[error("the folder for content cannot be used")]
    Folder(#[source] std::io::Error),
    #[error("the model has {bytes} bytes and this replica may keep {limit}; raise its --content-cache-bytes")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("models in use take all the place that there is for content; send it to another replica or later")]
    Busy,
    #[error("the content store {0}")]
    Reach(#[source] EgressError),
    #[error("the content store answered {status}")]
    Status { status: u16 },
    #[error("the content store said nothing for too long")]
    Silent,
    #[error("what the content store lists is not what the digest names")]
    Listing,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("a chunk of {file} is not what the manifest says; the content store is damaged")]
    Chunk { file: String },
    #[error("the content cannot be written")]
    Write(#[source] std::io::Error),
}

impl ContentError {
    /// What a router is told.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Missing { .. } | Self::Digest { .. } => FailureReason::InvalidRequest,
            Self::TooLarge { .. } | Self::Manifest(_) => FailureReason::InvalidModel,
            Self::Busy => FailureReason::Busy,
            _ => FailureReason::Internal,
        }
    }
}

/// Imported models on disk, within a number of bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ContentCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: Entries,
    client: Client,
    /// One for each entry that somebody waits for: in this process the first fetches and the others wait.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A model on disk that stays as long as this lives.
#[derive(Debug)]
pub struct ContentLease {
    /// A folder in diffusers' layout, or a file.
    pub model: PathBuf,
    /// Of a file, the folder with its configurations.
    pub config: Option<PathBuf>,
    /// Whether it had to be fetched.
    pub fetched: bool,
    _shared: File,
}

impl ContentCache {
    /// Makes the folder where it is missing.
    ///
    /// # Errors
    /// [`ContentError::Folder`].
    pub fn open(folder: &Path, limit_bytes: u64) -> Result<Self, ContentError> {
        let entries = Entries::open(folder, limit_bytes).map_err(ContentError::Folder)?;
        // The router named the addresses: every one is good.
        let client = Client::new(AddressRules::anywhere());
        Ok(Self { inner: Arc::new(Inner { entries, client, turns: Mutex::default() }) })
    }

    pub fn folder(&self) -> &Path {
        self.inner.entries.folder()
    }

    /// The model, fetched if it is not here. `tell` is told the bytes that are here, and all of them. Dropping the future stops fetching;
    /// what has come is used by the next.
    ///
    /// # Errors
    /// [`ContentError`].
    pub async fn lease(&self, source: &ContentSource, tell: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<ContentLease, ContentError> {
        let digest = &source.digest;
        if digest.len() != DIGEST_DIGITS || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ContentError::Digest { digest: digest.clone() });
        }
        let entry = self.inner.entries.entry(digest);
        if let Some(lease) = shared(&entry, false)? {
            return Ok(lease);
        }
        let turn = self.inner.turn(digest);
        let _turn = turn.lock().await;
        loop {
            // Others may have fetched it meanwhile.
            if let Some(lease) = shared(&entry, false)? {
                return Ok(lease);
            }
            if let Some(exclusive) = entry.try_exclusive().map_err(ContentError::Folder)? {
                if !entry.is_there() {
                    fetch::fetch(&self.inner.client, &self.inner.entries, &entry, source, tell).await?;
                }
                drop(exclusive);
                if let Some(lease) = shared(&entry, true)? {
                    return Ok(lease);
                }
            }
            tokio::time::sleep(BUSY_INTERVAL).await;
        }
    }
}

impl Inner {
    fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(digest.to_owned()).or_default())
    }
}

/// The entry, if it is there and nobody removes it.
fn shared(entry: &Entry, fetched: bool) -> Result<Option<ContentLease>, ContentError> {
    let Some(shared) = entry.try_shared().map_err(ContentError::Folder)? else { return Ok(None) };
    let Some(manifest) = entry.manifest() else { return Ok(None) };
    // The order in which entries go is that of their last use.
    shared.set_modified(SystemTime::now()).map_err(ContentError::Folder)?;
    let ContentManifest { model, config, .. } = manifest;
    let files = entry.files();
    let config = config.map(|config| files.join(config));
    Ok(Some(ContentLease { model: files.join(model), config, fetched, _shared: shared }))
}

/// The digest in a `content:` URI.
pub fn digest_of(uri: &str) -> Option<&str> {
    uri.strip_prefix(CONTENT_SCHEME)
}
