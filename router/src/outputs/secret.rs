//! The secret behind output paths and the signed URLs of outputs and inputs: 32 random bytes in a file that only this user may read.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::Rng;

const SECRET_BYTES: usize = 32;

/// Never printed: whoever has it can read and write every picture.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secret file {path} cannot be read or made: {source}")]
    File { path: String, source: std::io::Error },
    #[error(
        "the secret file {path} holds {found} bytes instead of {SECRET_BYTES}: remove it, and a new one is made (old output links then end)"
    )]
    Length { path: String, found: usize },
}

impl Secret {
    pub fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads the secret at `path`; makes it when there is none. Two processes that start together agree on one.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        match std::fs::read(path) {
            Ok(bytes) => Self::checked(path, &bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::create(path),
            Err(source) => Err(SecretError::File { path: path.display().to_string(), source }),
        }
    }

    fn checked(path: &Path, bytes: &[u8]) -> Result<Self, SecretError> {
        bytes.try_into().map(Self).map_err(|_| SecretError::Length { path: path.display().to_string(), found: bytes.len() })
    }

    /// Writes a whole file beside `path` and links it into place, so that nobody ever reads half a secret.
    fn create(path: &Path) -> Result<Self, SecretError> {
        let file_error = |source| SecretError::File { path: path.display().to_string(), source };
        let mut bytes = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        let temporary = path.with_extension(format!("{}.new", uuid::Uuid::now_v7().simple()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(file_error)?;
        let linked = file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&temporary, path));
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Ok(()) => Ok(Self(bytes)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let bytes = std::fs::read(path).map_err(file_error)?;
                Self::checked(path, &bytes)
            }
            Err(error) => Err(file_error(error)),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secret_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output-secret");
        let first = Secret::load_or_create(&path).unwrap();
        let second = Secret::load_or_create(&path).unwrap();
        assert_eq!(first.bytes(), second.bytes());
        assert_ne!(first.bytes(), [0; SECRET_BYTES]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn short_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output-secret");
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Secret::load_or_create(&path), Err(SecretError::Length { found: 5, .. })));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", Secret::from_bytes([7; SECRET_BYTES])), "Secret(<redacted>)");
    }
}
