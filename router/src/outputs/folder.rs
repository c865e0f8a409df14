//! Outputs as files in a folder: the store of local mode. Written once, whole or not at all.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use runtime_api::OutputFormat;
use uuid::Uuid;

use super::content::is_whole;
use super::signing::{OutputName, allows_put, put_query};
use super::{OUTPUT_LIMIT_BYTES, OutputError, OutputStore, Secret};

/// Files that are being written; what is left in here belongs to nobody after a start.
const UNFINISHED_FOLDER: &str = "unfinished";

/// Keeps outputs below one folder that no other process writes to.
#[derive(Debug)]
pub struct FolderStore {
    folder: Arc<PathBuf>,
    secret: Secret,
}

impl FolderStore {
    /// Opens or makes the folder, and removes what an earlier process left unfinished.
    pub fn open(dir: &Path, secret: Secret) -> Result<Self, OutputError> {
        let open_error = |source| OutputError::Open { path: dir.display().to_string(), source };
        let unfinished = dir.join(UNFINISHED_FOLDER);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(open_error(error)),
            _ => std::fs::create_dir_all(&unfinished).map_err(open_error)?,
        }
        Ok(Self { folder: Arc::new(dir.to_owned()), secret })
    }

    pub(super) fn allows_put(&self, name: &OutputName, expires: u64, signature: &str, now: SystemTime) -> bool {
        allows_put(&self.secret, name, expires, signature, now)
    }

    fn path(&self, name: &OutputName) -> PathBuf {
        self.folder.join(name.folder_name()).join(name.file_name())
    }

    fn name(&self, generation: Uuid, image: u32, format: OutputFormat) -> OutputName {
        OutputName::new(&self.secret, generation, image, format)
    }

    pub(super) async fn read_named(&self, name: &OutputName) -> Result<Option<Bytes>, OutputError> {
        read_file(self.path(name)).await
    }

    /// Stores an image under its name, once.
    pub(super) async fn write(&self, name: &OutputName, image: Bytes) -> Result<(), OutputError> {
        check(&image, name.format())?;
        let target = self.path(name);
        let temporary = self.folder.join(UNFINISHED_FOLDER).join(Uuid::now_v7().simple().to_string());
        tokio::task::spawn_blocking(move || write_once(&temporary, &target, &image))
            .await
            .map_err(|error| OutputError::Write(std::io::Error::other(error)))?
    }
}

async fn read_file(path: PathBuf) -> Result<Option<Bytes>, OutputError> {
    match tokio::fs::read(path).await {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OutputError::Read(error)),
    }
}

fn check(image: &[u8], format: OutputFormat) -> Result<(), OutputError> {
    if image.len() > OUTPUT_LIMIT_BYTES {
        return Err(OutputError::TooLarge);
    }
    if is_whole(image, format) { Ok(()) } else { Err(OutputError::OtherFormat { format }) }
}

/// Writes beside the target and links into place: a link, unlike a rename, fails when the target exists.
fn write_once(temporary: &Path, target: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(OutputError::Write)?;
    }
    let written = File::create_new(temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let linked = written.and_then(|()| std::fs::hard_link(temporary, target));
    let _ = std::fs::remove_file(temporary);
    match linked {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(OutputError::Exists),
        Err(error) => Err(OutputError::Write(error)),
    }
}

#[async_trait]
impl OutputStore for FolderStore {
    fn public_path(&self, generation: Uuid, image: u32, format: OutputFormat) -> String {
        format!("/outputs/{}", self.name(generation, image, format).file_name())
    }

    async fn signed_put_url(
        &self,
        base: &str,
        generation: Uuid,
        image: u32,
        format: OutputFormat,
        expires: SystemTime,
    ) -> Result<String, OutputError> {
        let name = self.name(generation, image, format);
        Ok(format!("{}/outputs/{}?{}", base.trim_end_matches('/'), name.file_name(), put_query(&self.secret, &name, expires)))
    }

    async fn read(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<Option<Bytes>, OutputError> {
        read_file(self.path(&self.name(generation, image, format))).await
    }

    async fn exists(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<bool, OutputError> {
        tokio::fs::try_exists(self.path(&self.name(generation, image, format))).await.map_err(OutputError::Read)
    }

    async fn remove(&self, generation: Uuid, image: u32, format: OutputFormat) -> Result<(), OutputError> {
        match tokio::fs::remove_file(self.path(&self.name(generation, image, format))).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(OutputError::Write(error)),
            _ => Ok(()),
        }
    }
}
