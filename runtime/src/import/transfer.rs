//! The bulk: each file read once from its first byte to its last, cut into chunks that are put into the store while the next ones come,
//! and compared with what its header, its publisher and its declaration say.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use diffusion::model::FilesDigest;
use egress::Client;
use runtime_api::{CHUNK_BYTES, ContentFile};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::ImportError;
use super::outline::{Outline, OutlineFile, Source};
use super::remote::{Reader, Remote};
use super::store::Store;

/// Chunks that are on their way into the store at once: bounds what is in memory.
const PUTS_AT_ONCE: usize = 4;
/// Between two words about how far it is.
const TELL_INTERVAL: Duration = Duration::from_secs(2);

/// The files with their chunks, and the digest of all.
pub(super) async fn transfer(
    client: &Client,
    store: &Store,
    outline: &Outline,
    expected: Option<&str>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(Vec<ContentFile>, String), ImportError> {
    let mut progress = Progress { tell, total: outline.bytes(), done: 0, told: Instant::now() };
    let mut digest = FilesDigest::default();
    let mut files = Vec::new();
    for file in &outline.files {
        if file.decides {
            digest.begin(&file.name, file.bytes);
        }
        let decides = file.decides.then_some(&mut digest);
        let sent = Sending::new(store, decides, &mut progress).send(client, file).await?;
        if let Source::There { remote: Remote { name, sha256: Some(published), .. }, .. } = &file.source
            && *published != sent.sha256
        {
            return Err(other(name, &sent.sha256, published, "its publisher lists"));
        }
        files.push(sent);
    }
    let found = match &outline.model {
        Some(model) => files.iter().find(|file| file.name == *model).map(|file| file.sha256.clone()).unwrap_or_default(),
        None => digest.finish(),
    };
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(other("the model", &found, expected, "spec.source.sha256 declares")),
        None => Ok((files, found)),
    }
}

fn other(name: &str, found: &str, expected: &str, whose: &'static str) -> ImportError {
    ImportError::OtherDigest { name: name.to_owned(), found: found.to_owned(), expected: expected.to_owned(), whose }
}

/// Tells how far it is, now and then.
struct Progress<'a> {
    tell: &'a (dyn Fn(&str) + Sync),
    total: u64,
    done: u64,
    told: Instant,
}

impl Progress<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.told.elapsed() >= TELL_INTERVAL {
            self.told = Instant::now();
            let percent = self.done.saturating_mul(100) / self.total.max(1);
            (self.tell)(&format!("{} of {} MiB ({percent} %)", self.done >> 20, self.total >> 20));
        }
    }
}

/// One file on its way.
struct Sending<'a, 'b> {
    store: &'a Store,
    digest: Option<&'a mut FilesDigest>,
    progress: &'a mut Progress<'b>,
    whole: Sha256,
    chunk: BytesMut,
    chunks: Vec<String>,
    puts: JoinSet<Result<(), ImportError>>,
}

impl<'a, 'b> Sending<'a, 'b> {
    fn new(store: &'a Store, digest: Option<&'a mut FilesDigest>, progress: &'a mut Progress<'b>) -> Self {
        Self { store, digest, progress, whole: Sha256::new(), chunk: BytesMut::new(), chunks: Vec::new(), puts: JoinSet::new() }
    }

    async fn send(mut self, client: &Client, file: &OutlineFile) -> Result<ContentFile, ImportError> {
        match &file.source {
            Source::Here(path) => self.take(&read_small(path).await?).await?,
            Source::There { remote, head } => self.fetch(remote.open(client).await?, remote, head, file.bytes).await?,
        }
        self.put_chunk().await?;
        while let Some(put) = self.puts.join_next().await {
            landed(put)?;
        }
        let sha256 = hex::encode(self.whole.finalize());
        Ok(ContentFile { name: file.name.clone(), bytes: file.bytes, sha256, chunks: self.chunks })
    }

    async fn fetch(&mut self, mut reader: Reader<'_>, remote: &Remote, head: &[u8], bytes: u64) -> Result<(), ImportError> {
        // What was looked at is what is fetched, however its server may answer.
        let changed = || ImportError::Changed { name: remote.name.clone() };
        if reader.total() != bytes {
            return Err(changed());
        }
        let mut expected = head;
        while let Some(piece) = reader.next().await? {
            let compared = expected.len().min(piece.len());
            if piece[..compared] != expected[..compared] {
                return Err(changed());
            }
            expected = &expected[compared..];
            self.take(&piece).await?;
        }
        Ok(())
    }

    async fn take(&mut self, mut bytes: &[u8]) -> Result<(), ImportError> {
        self.whole.update(bytes);
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.progress.add(bytes.len() as u64);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES as usize - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() as u64 == CHUNK_BYTES {
                self.put_chunk().await?;
            }
        }
        Ok(())
    }

    /// Puts what has come together, once there is a place on the way.
    async fn put_chunk(&mut self) -> Result<(), ImportError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        while self.puts.len() >= PUTS_AT_ONCE {
            if let Some(put) = self.puts.join_next().await {
                landed(put)?;
            }
        }
        let bytes: Bytes = self.chunk.split().freeze();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        self.chunks.push(sha256.clone());
        let store = self.store.clone();
        self.puts.spawn(async move { store.put(sha256, bytes).await });
        Ok(())
    }
}

fn landed(put: Result<Result<(), ImportError>, tokio::task::JoinError>) -> Result<(), ImportError> {
    put.unwrap_or_else(|error| Err(ImportError::Scratch(std::io::Error::other(error))))
}

async fn read_small(path: &Path) -> Result<Vec<u8>, ImportError> {
    tokio::fs::read(path).await.map_err(ImportError::Scratch)
}
