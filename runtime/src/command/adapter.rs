//! Adapters on the command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;

use crate::engine::{AdapterFile, AdapterUse, Diffusion, Engine};

/// `FILE` or `FILE:STRENGTH`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AdapterPath {
    pub(super) path: PathBuf,
    pub(super) scale: f64,
}

impl FromStr for AdapterPath {
    type Err = std::convert::Infallible;

    /// A file whose name ends with a colon and a number is named with its strength.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let with_scale = text.rsplit_once(':').and_then(|(path, scale)| Some((path, scale.parse().ok()?)));
        let (path, scale) = with_scale.unwrap_or((text, 1.0));
        Ok(Self { path: PathBuf::from(path), scale })
    }
}

/// Reads an adapter for `engine`.
///
/// # Errors
/// With the file's name, whatever is wrong with it.
pub(super) fn open(engine: &Diffusion, path: &Path, scale: f64) -> anyhow::Result<AdapterUse> {
    let open = || anyhow::Ok(engine.load_adapter(&AdapterFile::open(path)?, None)?);
    let adapter = Arc::new(open().with_context(|| format!("read adapter {}", path.display()))?);
    Ok(AdapterUse { adapter, scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_follows_the_last_colon() {
        for (text, path, scale) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.safetensors:0.5", "a.safetensors", 0.5),
            ("a.safetensors:-1", "a.safetensors", -1.0),
            ("C:a:b", "C:a:b", 1.0),
            ("x:2:0.1", "x:2", 0.1),
        ] {
            assert_eq!(text.parse(), Ok(AdapterPath { path: PathBuf::from(path), scale }), "{text}");
        }
    }
}
