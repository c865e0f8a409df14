//! Content as files in a folder: the store of local mode, and of a trial on a cluster.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use runtime_api::ChunkPlace;
use uuid::Uuid;

use super::{Chunk, ContentError, ContentStore, Document};
use crate::outputs::Secret;
use crate::sha256_name::Sha256Name;
use crate::signature;

/// Keep the two uses of the secret here apart from each other and from all others.
const READING: &[u8] = b"content chunk get\0";
const PUTTING: &[u8] = b"content chunk put\0";
/// Files that are being written; what is left in here belongs to nobody after a start.
const UNFINISHED_FOLDER: &str = "unfinished";

/// Keeps content below one folder that no other process writes to.
#[derive(Debug)]
pub struct FolderContent {
    folder: Arc<PathBuf>,
    secret: Secret,
}

impl FolderContent {
    /// Opens or makes the folder, and removes what an earlier process left unfinished.
    pub fn open(dir: &Path, secret: Secret) -> Result<Self, ContentError> {
        let open_error = |source| ContentError::Open { path: dir.display().to_string(), source };
        let unfinished = dir.join(UNFINISHED_FOLDER);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(open_error(error)),
            _ => std::fs::create_dir_all(&unfinished).map_err(open_error)?,
        }
        Ok(Self { folder: Arc::new(dir.to_owned()), secret })
    }

    pub(super) fn allows_get(&self, name: &Sha256Name, expires: u64, signature: &str) -> bool {
        signature::is_good(&self.secret, READING, name.bytes(), expires, signature, SystemTime::now())
    }

    pub(super) fn allows_put(&self, name: &Sha256Name, expires: u64, signature: &str) -> bool {
        signature::is_good(&self.secret, PUTTING, name.bytes(), expires, signature, SystemTime::now())
    }

    /// The chunk, to be read as it is sent; `None` while it is not there.
    pub(super) async fn open_chunk(&self, name: &Sha256Name) -> Result<Option<(tokio::fs::File, u64)>, ContentError> {
        let file = match tokio::fs::File::open(self.chunk_path(name)).await {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ContentError::Read(error)),
        };
        let bytes = file.metadata().await.map_err(ContentError::Read)?.len();
        Ok(Some((file, bytes)))
    }

    /// Stores a chunk under its name, if that is its name.
    pub(super) async fn write_chunk(&self, name: Sha256Name, bytes: Bytes) -> Result<(), ContentError> {
        let (target, temporary) = (self.chunk_path(&name), self.temporary());
        let written = tokio::task::spawn_blocking(move || {
            let found = Sha256Name::of(&bytes);
            if found != name {
                return Err(ContentError::OtherChunk { found: found.text() });
            }
            write_whole(&temporary, &target, &bytes)
        });
        written.await.map_err(|error| ContentError::Write(std::io::Error::other(error)))?
    }

    fn chunk_path(&self, name: &Sha256Name) -> PathBuf {
        let text = name.text();
        // 256 folders, so that none grows without end.
        self.folder.join("chunks").join(&text[..2]).join(&text)
    }

    fn document_path(&self, document: Document) -> PathBuf {
        match document {
            Document::Manifest(name) => self.folder.join("manifests").join(format!("{}.json", name.text())),
            Document::Import(name) => self.folder.join("imports").join(format!("{}.json", name.text())),
        }
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join(UNFINISHED_FOLDER).join(Uuid::now_v7().simple().to_string())
    }
}

/// Writes beside the target and moves it there: nobody ever sees a part of it, also not after the machine has failed.
fn write_whole(temporary: &Path, target: &Path, bytes: &[u8]) -> Result<(), ContentError> {
    let written = place(temporary, target, bytes);
    if written.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    written.map_err(|error| match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ContentError::Full,
        _ => ContentError::Write(error),
    })
}

fn place(temporary: &Path, target: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let parent = target.parent().unwrap_or(target);
    std::fs::create_dir_all(parent)?;
    let mut file = File::create_new(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, target)?;
    File::open(parent)?.sync_all()
}

#[async_trait]
impl ContentStore for FolderContent {
    async fn has(&self, chunk: Chunk) -> Result<bool, ContentError> {
        match tokio::fs::metadata(self.chunk_path(&chunk.name)).await {
            Ok(metadata) => Ok(metadata.len() == chunk.bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ContentError::Read(error)),
        }
    }

    async fn place(&self, chunk: Chunk, expires: SystemTime) -> Result<ChunkPlace, ContentError> {
        let query = signature::query(&self.secret, PUTTING, chunk.name.bytes(), expires);
        Ok(ChunkPlace { put_url: Some(format!("/content/chunks/{}?{query}", chunk.name.text())), headers: Vec::new() })
    }

    async fn url(&self, chunk: Chunk, expires: SystemTime) -> Result<String, ContentError> {
        let query = signature::query(&self.secret, READING, chunk.name.bytes(), expires);
        Ok(format!("/content/chunks/{}?{query}", chunk.name.text()))
    }

    async fn read(&self, document: Document) -> Result<Option<Bytes>, ContentError> {
        match tokio::fs::read(self.document_path(document)).await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContentError::Read(error)),
        }
    }

    async fn write(&self, document: Document, bytes: Bytes) -> Result<(), ContentError> {
        let (target, temporary) = (self.document_path(document), self.temporary());
        let written = tokio::task::spawn_blocking(move || write_whole(&temporary, &target, &bytes));
        written.await.map_err(|error| ContentError::Write(std::io::Error::other(error)))?
    }
}
