//! The cache's folder: an entry for each digest, their locks, and which go when another needs the place.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use runtime_api::ContentManifest;

use super::ContentError;

/// The manifest within an entry, whose bytes the digest is of. Files of manifests never begin with a dot.
const MANIFEST: &str = ".manifest.json";
/// Entries that are being fetched.
const UNFINISHED: &str = "unfinished";
const LOCK_ENDING: &str = ".lock";

/// All entries.
#[derive(Debug)]
pub(super) struct Entries {
    folder: PathBuf,
    limit_bytes: u64,
}

/// One entry, there or not.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    folder: PathBuf,
    digest: String,
}

impl Entries {
    pub(super) fn open(folder: &Path, limit_bytes: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder.join(UNFINISHED))?;
        Ok(Self { folder: folder.canonicalize()?, limit_bytes })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn entry(&self, digest: &str) -> Entry {
        Entry { folder: self.folder.clone(), digest: digest.to_owned() }
    }

    /// Removes what was not used for longest until there is place for `bytes`; never what is in use.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`] where it cannot be, and [`ContentError::Busy`] where it cannot be now.
    pub(super) fn make_room(&self, wanted: &Entry, bytes: u64) -> Result<(), ContentError> {
        if bytes > self.limit_bytes {
            return Err(ContentError::TooLarge { bytes, limit: self.limit_bytes });
        }
        let mut others = self.others(wanted).map_err(ContentError::Folder)?;
        let mut held: u64 = others.iter().map(|(_, entry)| entry.bytes()).sum();
        others.sort_by_key(|(used, _)| *used);
        for (_, entry) in others {
            if held.saturating_add(bytes) <= self.limit_bytes {
                break;
            }
            if let Some(_exclusive) = entry.try_exclusive().map_err(ContentError::Folder)? {
                held -= entry.bytes().min(held);
                entry.remove().map_err(ContentError::Folder)?;
                tracing::info!(digest = entry.digest, "content leaves the disk");
            }
        }
        if held.saturating_add(bytes) <= self.limit_bytes { Ok(()) } else { Err(ContentError::Busy) }
    }

    /// With when each was last used.
    fn others(&self, wanted: &Entry) -> std::io::Result<Vec<(SystemTime, Entry)>> {
        let mut others = Vec::new();
        for file in std::fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            let Some(digest) = name.to_str().and_then(|name| name.strip_suffix(LOCK_ENDING)) else { continue };
            if digest != wanted.digest {
                others.push((file.metadata()?.modified()?, self.entry(digest)));
            }
        }
        Ok(others)
    }
}

impl Entry {
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join(&self.digest)
    }

    pub(super) fn unfinished(&self) -> PathBuf {
        self.folder.join(UNFINISHED).join(&self.digest)
    }

    pub(super) fn is_there(&self) -> bool {
        self.files().is_dir()
    }

    /// What is in it, if it is there.
    pub(super) fn manifest(&self) -> Option<ContentManifest> {
        let bytes = std::fs::read(self.files().join(MANIFEST)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// A lock that keeps it from being removed; `None` while it is fetched or removed.
    pub(super) fn try_shared(&self) -> std::io::Result<Option<File>> {
        let file = self.lock_file()?;
        locked(file.try_lock_shared()).map(|is_locked| is_locked.then_some(file))
    }

    /// A lock that lets nobody else in; `None` while others are in.
    pub(super) fn try_exclusive(&self) -> std::io::Result<Option<File>> {
        let file = self.lock_file()?;
        locked(file.try_lock()).map(|is_locked| is_locked.then_some(file))
    }

    /// Everything has come. Whoever calls has the exclusive lock.
    pub(super) fn finish(&self, manifest: &str) -> std::io::Result<()> {
        let unfinished = self.unfinished();
        std::fs::write(unfinished.join(MANIFEST), manifest)?;
        File::open(unfinished.join(MANIFEST))?.sync_all()?;
        std::fs::rename(&unfinished, self.files())?;
        File::open(&self.folder)?.sync_all()
    }

    /// Whoever calls has the exclusive lock.
    fn remove(&self) -> std::io::Result<()> {
        // First its name, so that a part of it is never taken for the whole.
        for (from, to) in [(self.files(), Some(self.unfinished())), (self.unfinished(), None)] {
            let done = match to {
                Some(to) if from.is_dir() => {
                    let _ = std::fs::remove_dir_all(&to);
                    std::fs::rename(&from, &to)
                }
                Some(_) => Ok(()),
                None => std::fs::remove_dir_all(&from),
            };
            match done {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes that it takes of the disk.
    fn bytes(&self) -> u64 {
        disk_bytes(&self.files()) + disk_bytes(&self.unfinished())
    }

    fn lock_file(&self) -> std::io::Result<File> {
        let path = self.folder.join(format!("{}{LOCK_ENDING}", self.digest));
        File::options().create(true).truncate(false).write(true).open(path)
    }
}

fn locked(result: Result<(), TryLockError>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What cannot be read takes nothing that could be won.
fn disk_bytes(folder: &Path) -> u64 {
    const BLOCK_BYTES: u64 = 512;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(entries: &Entries, name: &str, bytes: usize) -> Entry {
        let entry = entries.entry(name);
        std::fs::create_dir_all(entry.unfinished()).unwrap();
        std::fs::write(entry.unfinished().join("file"), vec![1; bytes]).unwrap();
        drop(entry.try_exclusive().unwrap().unwrap());
        entry.finish("{}").unwrap();
        entry
    }

    fn use_at(entry: &Entry, seconds: u64) {
        entry.lock_file().unwrap().set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn least_recently_used_goes_first_and_what_is_in_use_never() {
        let folder = tempfile::tempdir().unwrap();
        let entries = Entries::open(folder.path(), 1 << 20).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| put(&entries, name, 300 << 10));
        for (entry, seconds) in [(&a, 1), (&b, 2), (&c, 3)] {
            use_at(entry, seconds);
        }
        let in_use = a.try_shared().unwrap();
        entries.make_room(&entries.entry("d"), 300 << 10).unwrap();
        assert!(a.is_there() && !b.is_there() && c.is_there());
        assert!(matches!(entries.make_room(&entries.entry("d"), 900 << 10), Err(ContentError::Busy)));
        drop(in_use);
        entries.make_room(&entries.entry("d"), 1 << 20).unwrap();
        assert!(!a.is_there() && !c.is_there());
        assert!(matches!(entries.make_room(&entries.entry("d"), (1 << 20) + 1), Err(ContentError::TooLarge { .. })));
    }

    #[test]
    fn what_is_fetched_or_removed_is_not_used_and_the_other_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let entries = Entries::open(folder.path(), 1 << 20).unwrap();
        let entry = put(&entries, "a", 1);
        let exclusive = entry.try_exclusive().unwrap();
        assert!(exclusive.is_some() && entry.try_shared().unwrap().is_none() && entry.try_exclusive().unwrap().is_none());
        drop(exclusive);
        let shared = [entry.try_shared().unwrap(), entry.try_shared().unwrap()];
        assert!(shared.iter().all(Option::is_some) && entry.try_exclusive().unwrap().is_none());
    }
}
