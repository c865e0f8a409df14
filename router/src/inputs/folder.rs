//! Inputs as files in a folder, named by their sha256: the store of local mode.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::{InputError, InputStore};
use crate::outputs::Secret;
use crate::sha256_name::Sha256Name;
use crate::signature;

/// Keeps the signatures for reading inputs apart from all others of the secret.
const READING: &[u8] = b"input get\0";
/// Files that are being written; what is left in here belongs to nobody after a start.
const UNFINISHED_FOLDER: &str = "unfinished";
/// Bytes of all inputs together.
const FOLDER_LIMIT_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// Keeps inputs below one folder that no other process writes to.
#[derive(Debug)]
pub struct FolderInputs {
    files: Arc<Files>,
    secret: Secret,
}

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    limit_bytes: u64,
    kept_bytes: AtomicU64,
    /// Held while a file comes, is kept for longer, or goes: what was just found is not removed the next moment.
    changing: Mutex<()>,
}

impl FolderInputs {
    /// Opens or makes the folder, and removes what an earlier process left unfinished.
    pub fn open(dir: &Path, secret: Secret) -> Result<Self, InputError> {
        Self::with_limit(dir, secret, FOLDER_LIMIT_BYTES)
    }

    pub(super) fn with_limit(dir: &Path, secret: Secret, limit_bytes: u64) -> Result<Self, InputError> {
        let open_error = |source| InputError::Open { path: dir.display().to_string(), source };
        let unfinished = dir.join(UNFINISHED_FOLDER);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(open_error(error)),
            _ => std::fs::create_dir_all(&unfinished).map_err(open_error)?,
        }
        let files = Files { folder: dir.to_owned(), limit_bytes, kept_bytes: AtomicU64::new(0), changing: Mutex::default() };
        let kept: u64 = files.all().map_err(open_error)?.iter().map(|(_, metadata)| metadata.len()).sum();
        files.kept_bytes.store(kept, Ordering::Relaxed);
        Ok(Self { files: Arc::new(files), secret })
    }

    pub(super) fn allows_get(&self, name: &Sha256Name, expires: u64, signature: &str, now: SystemTime) -> bool {
        signature::is_good(&self.secret, READING, name.bytes(), expires, signature, now)
    }

    pub(super) async fn read(&self, name: &Sha256Name) -> Result<Option<Bytes>, InputError> {
        match tokio::fs::read(self.files.path(name)).await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(InputError::Read(error)),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, InputError> + Send + 'static,
    ) -> Result<T, InputError> {
        let files = Arc::clone(&self.files);
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.map_err(|error| InputError::Write(std::io::Error::other(error)))?
    }
}

impl Files {
    fn path(&self, name: &Sha256Name) -> PathBuf {
        let text = name.text();
        // 256 folders, so that none grows without end.
        self.folder.join(&text[..2]).join(&text)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, bytes: &[u8]) -> Result<Sha256Name, InputError> {
        let name = Sha256Name::of(bytes);
        let target = self.path(&name);
        if self.keep_for_longer(&target)? {
            return Ok(name);
        }
        let size = bytes.len() as u64;
        if self.kept_bytes.load(Ordering::Relaxed).saturating_add(size) > self.limit_bytes {
            return Err(InputError::Full { limit_bytes: self.limit_bytes });
        }
        let temporary = self.folder.join(UNFINISHED_FOLDER).join(Uuid::now_v7().simple().to_string());
        let placed = File::create_new(&temporary)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| self.place(&temporary, &target));
        if let Err(error) = placed {
            let _ = std::fs::remove_file(&temporary);
            return Err(InputError::Write(error));
        }
        self.kept_bytes.fetch_add(size, Ordering::Relaxed);
        Ok(name)
    }

    /// Whether the file is there; its time of retention then begins again.
    fn keep_for_longer(&self, target: &Path) -> Result<bool, InputError> {
        let _changing = self.changing();
        match File::open(target) {
            Ok(file) => file.set_modified(SystemTime::now()).map(|()| true).map_err(InputError::Write),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(InputError::Read(error)),
        }
    }

    /// Moves the file into place, and makes its name as durable as its bytes.
    fn place(&self, temporary: &Path, target: &Path) -> std::io::Result<()> {
        let parent = target.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(parent)?;
        let changing = self.changing();
        std::fs::rename(temporary, target)?;
        drop(changing);
        File::open(parent)?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    /// Every input, whoever put it.
    fn all(&self) -> std::io::Result<Vec<(PathBuf, std::fs::Metadata)>> {
        let mut found = Vec::new();
        for folder in std::fs::read_dir(&self.folder)?.flatten() {
            let is_inputs = folder.file_type().is_ok_and(|kind| kind.is_dir()) && folder.file_name() != UNFINISHED_FOLDER;
            if is_inputs {
                let files = std::fs::read_dir(folder.path())?.flatten();
                found.extend(files.filter_map(|file| Some((file.path(), file.metadata().ok()?))));
            }
        }
        Ok(found)
    }

    fn sweep(&self, needed: &HashSet<String>, retention: Duration) -> Result<usize, InputError> {
        let mut removed = 0;
        for (path, _) in self.all().map_err(InputError::Read)? {
            let is_needed = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| needed.contains(name));
            if is_needed {
                continue;
            }
            let _changing = self.changing();
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok()).unwrap_or(Duration::ZERO);
            if age >= retention {
                std::fs::remove_file(&path).map_err(InputError::Write)?;
                // Two that put the same at once counted it twice; never below nothing.
                let _ =
                    self.kept_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept.saturating_sub(metadata.len())));
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[async_trait]
impl InputStore for FolderInputs {
    async fn put(&self, bytes: Bytes) -> Result<String, InputError> {
        self.blocking(move |files| files.put(&bytes)).await.map(|name| name.text())
    }

    async fn signed_get_url(&self, base: &str, sha256: &str, expires: SystemTime) -> Result<String, InputError> {
        let name = Sha256Name::parse(sha256).unwrap_or(Sha256Name::NOTHING);
        let query = signature::query(&self.secret, READING, name.bytes(), expires);
        Ok(format!("{}/inputs/{}?{query}", base.trim_end_matches('/'), name.text()))
    }

    async fn sweep(&self, needed: &HashSet<String>, retention: Duration) -> Result<usize, InputError> {
        let needed = needed.clone();
        self.blocking(move |files| files.sweep(&needed, retention)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> FolderInputs {
        FolderInputs::with_limit(folder, Secret::from_bytes([5; 32]), 10).unwrap()
    }

    async fn read(inputs: &FolderInputs, name: &str) -> Option<Bytes> {
        inputs.read(&Sha256Name::parse(name).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn inputs_are_named_by_what_they_are_and_outlive_their_process() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = open(folder.path());
        let name = inputs.put(Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(name, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(inputs.put(Bytes::from_static(b"abc")).await.unwrap(), name);
        std::fs::write(folder.path().join(UNFINISHED_FOLDER).join("half"), b"half").unwrap();
        let reopened = open(folder.path());
        assert_eq!(read(&reopened, &name).await.as_deref(), Some(b"abc".as_slice()));
        assert_eq!(std::fs::read_dir(folder.path().join(UNFINISHED_FOLDER)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_needed_or_new_stays_and_the_rest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = open(folder.path());
        let needed = inputs.put(Bytes::from_static(b"needed")).await.unwrap();
        let old = inputs.put(Bytes::from_static(b"old")).await.unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        for name in [&needed, &old] {
            let file = File::open(inputs.files.path(&Sha256Name::parse(name).unwrap())).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let retention = Duration::from_secs(3600);
        let all = HashSet::from([needed.clone(), old.clone()]);
        assert_eq!(inputs.sweep(&all, retention).await.unwrap(), 0);
        assert_eq!(inputs.sweep(&HashSet::from([needed.clone()]), retention).await.unwrap(), 1);
        assert!(read(&inputs, &needed).await.is_some() && read(&inputs, &old).await.is_none());
    }

    #[tokio::test]
    async fn putting_again_keeps_an_old_input() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = open(folder.path());
        let name = inputs.put(Bytes::from_static(b"abc")).await.unwrap();
        let path = inputs.files.path(&Sha256Name::parse(&name).unwrap());
        File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
        inputs.put(Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(inputs.sweep(&HashSet::new(), Duration::from_secs(3600)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn full_store_takes_no_more_until_something_goes() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = open(folder.path());
        inputs.put(Bytes::from_static(b"12345678")).await.unwrap();
        assert!(matches!(inputs.put(Bytes::from_static(b"abc")).await, Err(InputError::Full { limit_bytes: 10 })));
        let inputs = open(folder.path());
        assert!(matches!(inputs.put(Bytes::from_static(b"abc")).await, Err(InputError::Full { .. })), "counted again at the start");
        assert!(inputs.put(Bytes::from_static(b"12345678")).await.is_ok(), "it is there already");
        assert_eq!(inputs.sweep(&HashSet::new(), Duration::ZERO).await.unwrap(), 1);
        assert!(inputs.put(Bytes::from_static(b"abc")).await.is_ok());
    }
}
