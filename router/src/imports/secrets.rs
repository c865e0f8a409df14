//! The credentials of a source, without a cluster: a folder of the Secret's name with a file for each key, as a cluster mounts Secrets.

use std::path::Path;

/// Keys of one Secret.
const KEYS_LIMIT: usize = 64;
/// Bytes of one value.
const VALUE_LIMIT_BYTES: u64 = 64 * 1024;

/// The Secret's keys and values, for a process's environment; never printed. The error says what is missing, and no value.
pub(super) fn read(folder: &Path, name: &str) -> Result<Vec<(String, String)>, String> {
    let is_name = |text: &str| {
        !text.is_empty() && !text.starts_with('.') && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let missing = |reason: &str| format!("its Secret {name} cannot be read from {}: {reason}", folder.join(name).display());
    if !is_name(name) {
        return Err(format!("its Secret {name:?} has no name that a Secret can have"));
    }
    let entries = std::fs::read_dir(folder.join(name)).map_err(|error| missing(&error.to_string()))?;
    let mut found = Vec::new();
    for entry in entries.flatten().take(KEYS_LIMIT) {
        let Some(key) = entry.file_name().to_str().filter(|key| is_name(key)).map(str::to_owned) else { continue };
        if !entry.path().metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= VALUE_LIMIT_BYTES) {
            continue;
        }
        let value = std::fs::read_to_string(entry.path()).map_err(|error| missing(&error.to_string()))?;
        let value = value.trim_end_matches(['\r', '\n']);
        if value.contains('\0') {
            return Err(missing(&format!("{key} is no text")));
        }
        found.push((key, value.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_folder_with_a_file_for_each_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("hub/..data")).unwrap();
        std::fs::write(folder.path().join("hub/HF_TOKEN"), "token\n").unwrap();
        std::fs::write(folder.path().join("hub/.hidden"), "x").unwrap();
        assert_eq!(read(folder.path(), "hub"), Ok(vec![("HF_TOKEN".to_owned(), "token".to_owned())]));
        for name in ["", "..", "../hub", "other"] {
            assert!(read(folder.path(), name).is_err(), "{name}");
        }
    }
}
