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

use super::{Chunk, ContentError, ContentStore, Document, Kind, LISTED_LIMIT, Listed, Object, Place};
use crate::outputs::Secret;
use crate::sha256_name::Sha256Name;
use crate::signature;

/// Keep the two uses of the secret here apart from each other and from all others.
const READING: &[u8] = b"content chunk get\0";
const PUTTING: &[u8] = b"content chunk put\0";
/// Files that are being written; what is left in here belongs to nobody after a start.
const UNFINISHED_FOLDER: &str = "unfinished";
/// What is out of use, below it as in the folder itself.
const DISCARDED_FOLDER: &str = "discarded";

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

    /// The chunk, to be read as it is sent, also if it was out of use; `None` while it is not there.
    pub(super) async fn open_chunk(&self, name: &Sha256Name) -> Result<Option<(tokio::fs::File, u64)>, ContentError> {
        let open = async || match tokio::fs::File::open(self.chunk_path(name)).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContentError::Read(error)),
        };
        let mut opened = open().await?;
        if opened.is_none() && self.restore(Object::Chunk(*name)).await? {
            opened = open().await?;
        }
        let Some(file) = opened else { return Ok(None) };
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

    fn object_path(&self, place: Place, object: Object) -> PathBuf {
        let name = match object {
            Object::Chunk(name) => format!("{}/{}", &name.text()[..2], name.text()),
            Object::Manifest(name) => format!("{}.json", name.text()),
        };
        self.kind_folder(place, matches!(object, Object::Chunk(_))).join(name)
    }

    fn kind_folder(&self, place: Place, is_chunks: bool) -> PathBuf {
        let folder = match place {
            Place::Used => self.folder.to_path_buf(),
            Place::Discarded => self.folder.join(DISCARDED_FOLDER),
        };
        folder.join(if is_chunks { "chunks" } else { "manifests" })
    }

    /// From one place to the other, in one step; whether it was there.
    async fn carry(&self, object: Object, from: Place, to: Place) -> Result<bool, ContentError> {
        let (from, to) = (self.object_path(from, object), self.object_path(to, object));
        let carried = tokio::task::spawn_blocking(move || match carry(&from, &to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ContentError::Write(error)),
        });
        carried.await.map_err(|error| ContentError::Write(std::io::Error::other(error)))?
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join(UNFINISHED_FOLDER).join(Uuid::now_v7().simple().to_string())
    }
}

fn carry(from: &Path, to: &Path) -> std::io::Result<()> {
    // Its age there counts from now on.
    File::options().write(true).open(from)?.set_modified(SystemTime::now())?;
    std::fs::create_dir_all(to.parent().unwrap_or(to))?;
    std::fs::rename(from, to)
}

fn listed(folder: &Path, kind: Kind, found: &mut Vec<Listed>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.take(LISTED_LIMIT.saturating_sub(found.len())) {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| Sha256Name::parse(name.strip_suffix(".json").unwrap_or(name)));
        // What goes while it is looked at is not there.
        if let (Some(name), Ok(metadata)) = (name, entry.metadata()) {
            found.push(Listed { object: kind.object(name), modified: metadata.modified()?, path: String::new() });
        }
    }
    Ok(())
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

    async fn list(&self, place: Place, kind: Kind) -> Result<Vec<Listed>, ContentError> {
        let folders = match kind {
            Kind::Chunks { first_digit } => {
                (0..16).map(|second| self.kind_folder(place, true).join(format!("{first_digit:x}{second:x}"))).collect()
            }
            Kind::Manifests => vec![self.kind_folder(place, false)],
        };
        let listed = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            folders.iter().try_for_each(|folder| listed(folder, kind, &mut found)).map(|()| found)
        })
        .await;
        listed.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(ContentError::Read)
    }

    async fn discard(&self, object: Object) -> Result<(), ContentError> {
        self.carry(object, Place::Used, Place::Discarded).await.map(drop)
    }

    async fn restore(&self, object: Object) -> Result<bool, ContentError> {
        self.carry(object, Place::Discarded, Place::Used).await
    }

    /// One name will do: nobody else moves what is in this folder.
    async fn forget(&self, listed: &Listed) -> Result<(), ContentError> {
        match tokio::fs::remove_file(self.object_path(Place::Discarded, listed.object)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(ContentError::Write(error)),
            _ => Ok(()),
        }
    }
}
