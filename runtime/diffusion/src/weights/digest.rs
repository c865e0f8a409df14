//! sha256 of files, streamed.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::WeightsError;
use super::file::open_regular;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The sha256 of a file as 64 hexadecimal digits.
///
/// # Errors
/// [`WeightsError::Read`].
pub fn sha256_of_file(path: &Path) -> Result<String, WeightsError> {
    let failed = |source| WeightsError::Read { path: path.to_path_buf(), source };
    let (mut file, _) = open_regular(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hexadecimal(&hasher.finalize())),
            Ok(read) => hasher.update(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(failed(source)),
        }
    }
}

/// One file: its sha256. Several: the sha256 of the lines `DIGEST  NAME`, sorted by name, as `sha256sum` prints them.
pub(crate) fn sha256_of_component(files: &[PathBuf]) -> Result<String, WeightsError> {
    if let [file] = files {
        return sha256_of_file(file);
    }
    let mut lines = Vec::with_capacity(files.len());
    for file in files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        lines.push((name, sha256_of_file(file)?));
    }
    lines.sort();
    let mut hasher = Sha256::new();
    for (name, digest) in lines {
        hasher.update(format!("{digest}  {name}\n"));
    }
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
