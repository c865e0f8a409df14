//! Fetches one entry: its manifest, which must have its digest, and every chunk, which must have the sha256 that the manifest says. What an
//! earlier attempt brought is checked and kept.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use egress::{Client, EgressError, Request, StatusCode, Url};
use futures::{StreamExt, stream};
use runtime_api::{ContentListing, ContentManifest, ContentSource, MANIFEST_LIMIT_BYTES};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::ContentError;
use super::entries::{Entries, Entry};

/// Chunks that come at once: bounds what is in memory.
const CHUNKS_AT_ONCE: usize = 4;
/// Rounds for what did not come; each asks anew where things are.
const ROUNDS_LIMIT: u32 = 5;
/// Before the second round; it doubles from round to round.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// One chunk, or the listing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// A listing: the manifest twice over for its quotes, and a long URL for each of its chunks.
const LISTING_LIMIT_BYTES: usize = MANIFEST_LIMIT_BYTES * 16;

/// A chunk that is to come.
#[derive(Debug)]
struct Missing {
    file: usize,
    chunk: usize,
    offset: u64,
    bytes: u64,
    sha256: String,
}

/// An entry that is being fetched.
struct Fetching<'a> {
    client: &'a Client,
    source: &'a ContentSource,
    url: Url,
    manifest: ContentManifest,
    /// In the manifest's order, each with its whole length.
    files: Vec<Arc<File>>,
    done: AtomicU64,
    tell: &'a (dyn Fn(u64, u64) + Send + Sync),
}

/// Brings the entry; whoever calls has its exclusive lock.
pub(super) async fn fetch(
    client: &Client,
    entries: &Entries,
    entry: &Entry,
    source: &ContentSource,
    tell: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), ContentError> {
    let url = Url::parse(&source.listing_url).map_err(|_| ContentError::Missing { digest: source.digest.clone() })?;
    let (listing, manifest) = list(client, &url, &source.digest).await?;
    let total = manifest.bytes();
    tell(0, total);
    entries.make_room(entry, total)?;
    let (files, missing) = prepare(entry, &manifest).await?;
    let done = AtomicU64::new(total - missing.iter().map(|chunk| chunk.bytes).sum::<u64>());
    let fetching = Fetching { client, source, url, manifest, files, done, tell };
    fetching.rounds(missing, listing.chunk_urls).await?;
    finish(entry, fetching.files, listing.manifest).await
}

impl Fetching<'_> {
    /// Until everything is there, or too much has failed too often.
    async fn rounds(&self, mut missing: Vec<Missing>, mut urls: Vec<Vec<String>>) -> Result<(), ContentError> {
        let mut pause = PAUSE_FIRST;
        // Chunks may have gone out of use: who looks for them brings them back.
        let mut looking = self.url.clone();
        looking.query_pairs_mut().append_pair("look", "true");
        for round in 1.. {
            let Some(error) = self.round(&mut missing, &urls).await else { break };
            if round >= ROUNDS_LIMIT || matches!(error, ContentError::Write(_)) {
                return Err(error);
            }
            tracing::warn!(round, chunks = missing.len(), %error, "content did not come; trying again");
            tokio::time::sleep(pause).await;
            pause *= 2;
            urls = list(self.client, &looking, &self.source.digest).await?.0.chunk_urls;
        }
        Ok(())
    }

    /// Brings what is missing, as far as it comes. An error of what did not, if anything.
    async fn round(&self, missing: &mut Vec<Missing>, urls: &[Vec<String>]) -> Option<ContentError> {
        let one = async |chunk: Missing| {
            let url = urls.get(chunk.file).and_then(|urls| urls.get(chunk.chunk)).and_then(|url| self.url.join(url).ok());
            let brought = match url {
                Some(url) => self.bring(&url, &chunk).await,
                None => Err(ContentError::Listing),
            };
            brought.map_err(|error| (chunk, error))
        };
        let mut last = None;
        let mut coming = stream::iter(std::mem::take(missing)).map(one).buffer_unordered(CHUNKS_AT_ONCE);
        while let Some(came) = coming.next().await {
            if let Err((chunk, error)) = came {
                missing.push(chunk);
                last = Some(error);
            }
        }
        last
    }

    async fn bring(&self, url: &Url, chunk: &Missing) -> Result<(), ContentError> {
        let bytes = get(self.client, url, chunk.bytes as usize).await?;
        let (file, offset, sha256) = (Arc::clone(&self.files[chunk.file]), chunk.offset, chunk.sha256.clone());
        let expected = chunk.bytes;
        let written = tokio::task::spawn_blocking(move || {
            if bytes.len() as u64 != expected || hex::encode(Sha256::digest(&bytes)) != sha256 {
                return Ok(false);
            }
            file.write_all_at(&bytes, offset).map(|()| true)
        });
        match written.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(true) => {
                let done = self.done.fetch_add(chunk.bytes, Ordering::Relaxed) + chunk.bytes;
                (self.tell)(done, self.manifest.bytes());
                Ok(())
            }
            Ok(false) => Err(ContentError::Chunk { file: self.manifest.files[chunk.file].name.clone() }),
            Err(error) => Err(ContentError::Write(error)),
        }
    }
}

async fn list(client: &Client, url: &Url, digest: &str) -> Result<(ContentListing, ContentManifest), ContentError> {
    let answer = get(client, url, LISTING_LIMIT_BYTES).await?;
    let listing: ContentListing = serde_json::from_slice(&answer).map_err(|_| ContentError::Listing)?;
    if hex::encode(Sha256::digest(listing.manifest.as_bytes())) != digest {
        return Err(ContentError::Listing);
    }
    let manifest: ContentManifest = serde_json::from_str(&listing.manifest).map_err(|_| ContentError::Listing)?;
    manifest.check()?;
    Ok((listing, manifest))
}

/// At most `limit` bytes.
async fn get(client: &Client, url: &Url, limit: usize) -> Result<Vec<u8>, ContentError> {
    let answer = async {
        // No redirect is followed: it would take the signature elsewhere.
        let response = client.send(url, Request::new(Bytes::new())).await.map_err(ContentError::Reach)?;
        if response.status() != StatusCode::OK {
            return Err(ContentError::Status { status: response.status().as_u16() });
        }
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(piece) = body.chunk().await.map_err(ContentError::Reach)? {
            if piece.len() > limit - bytes.len() {
                return Err(ContentError::Reach(EgressError::Broken));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    };
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(ContentError::Silent))
}

/// Every file with its length, and what is missing of them.
async fn prepare(entry: &Entry, manifest: &ContentManifest) -> Result<(Vec<Arc<File>>, Vec<Missing>), ContentError> {
    let (folder, manifest) = (entry.unfinished(), manifest.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        let (mut files, mut missing) = (Vec::new(), Vec::new());
        for (index, file) in manifest.files.iter().enumerate() {
            let (opened, is_new) = open_file(folder.join(&file.name), file.bytes)?;
            let mut offset = 0;
            for (chunk, (sha256, bytes)) in file.sized_chunks().enumerate() {
                if is_new || !has_chunk(&opened, offset, bytes, sha256)? {
                    missing.push(Missing { file: index, chunk, offset, bytes, sha256: sha256.to_owned() });
                }
                offset += bytes;
            }
            files.push(Arc::new(opened));
        }
        Ok((files, missing))
    });
    prepared.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(ContentError::Write)
}

/// The file, and whether nothing can be in it yet.
fn open_file(path: PathBuf, bytes: u64) -> std::io::Result<(File, bool)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
    let is_new = file.metadata()?.len() != bytes;
    file.set_len(bytes)?;
    Ok((file, is_new))
}

fn has_chunk(file: &File, offset: u64, bytes: u64, sha256: &str) -> std::io::Result<bool> {
    let mut chunk = vec![0; bytes as usize];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(hex::encode(Sha256::digest(&chunk)) == sha256)
}

async fn finish(entry: &Entry, files: Vec<Arc<File>>, manifest: String) -> Result<(), ContentError> {
    let entry = entry.clone();
    let finished = tokio::task::spawn_blocking(move || {
        // On disk before its name says so.
        files.iter().try_for_each(|file| file.sync_all())?;
        entry.finish(&manifest)
    });
    finished.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(ContentError::Write)
}
