//! Where weights may come from: folders below the roots this replica was started with, and nothing else. A router is trusted with requests,
//! not with this machine's files.

use std::path::{Path, PathBuf};

use diffusion::adapter::{MAX_ADAPTER_SCALE, MAX_ADAPTERS};
use runtime_api::{AdapterSource, ModelSource, VaeSource};

use crate::residency::{Component, Merge, ModelKey};

/// The only scheme served.
const SCHEME: &str = "file://";
/// The autoencoder's name among a model's parts.
const VAE: &str = "vae";
/// Hex digits of a sha256.
const SHA256_DIGITS: usize = 64;

/// Folders below which models may lie, resolved.
#[derive(Clone, Debug)]
pub struct ModelRoots(Vec<PathBuf>);

/// Why a source is refused.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("model root {} cannot be opened; --model-root names a folder that exists", path.display())]
    OpenRoot { path: PathBuf, source: std::io::Error },
    #[error("the model's uri is not served by this replica; it must be file:// and an absolute path")]
    Scheme,
    #[error("the model's folder is outside this replica's model roots")]
    Outside,
    #[error("the model's folder cannot be opened")]
    OpenFolder { source: std::io::Error },
    #[error("the model's sha256 is not {SHA256_DIGITS} hex digits")]
    Digest,
    #[error("the model has more than {MAX_ADAPTERS} adapters")]
    Adapters,
    #[error("an adapter's scale is not a number from -{MAX_ADAPTER_SCALE} to {MAX_ADAPTER_SCALE}")]
    Scale,
}

impl ModelRoots {
    /// Resolves links once, so that a root may itself be one.
    ///
    /// # Errors
    /// [`SourceError::OpenRoot`] for a root that is not there.
    pub fn resolve(roots: &[PathBuf]) -> Result<Self, SourceError> {
        let resolved = |path: &PathBuf| path.canonicalize().map_err(|source| SourceError::OpenRoot { path: path.clone(), source });
        Ok(Self(roots.iter().map(resolved).collect::<Result<_, _>>()?))
    }

    /// These and one more, which is resolved already.
    #[must_use]
    pub fn with(mut self, root: &Path) -> Self {
        self.0.push(root.to_owned());
        self
    }

    /// What `source` names, with every link resolved before it is compared with the roots. Reads the file system.
    ///
    /// # Errors
    /// [`SourceError`]; its text tells nothing of what lies outside the roots.
    pub fn locate(&self, source: &ModelSource) -> Result<ModelKey, SourceError> {
        if source.adapters.len() > MAX_ADAPTERS {
            return Err(SourceError::Adapters);
        }
        let merge = |adapter: &AdapterSource| {
            // NaN is in no range.
            if !(-MAX_ADAPTER_SCALE..=MAX_ADAPTER_SCALE).contains(&adapter.scale) {
                return Err(SourceError::Scale);
            }
            let sha256 = adapter.sha256.as_deref().map(digest).transpose()?;
            Ok(Merge::new(self.resolved(&adapter.uri)?, sha256, adapter.scale))
        };
        let merges = source.adapters.iter().map(merge).collect::<Result<_, _>>()?;
        let component = |vae: &VaeSource| {
            let sha256 = vae.sha256.as_deref().map(digest).transpose()?;
            Ok((VAE.to_owned(), Component { path: self.resolved(&vae.uri)?, sha256 }))
        };
        let components = source.vae.iter().map(component).collect::<Result<_, _>>()?;
        let sha256 = source.sha256.as_deref().map(digest).transpose()?;
        let config = source.config.as_deref().map(|uri| self.resolved(uri)).transpose()?;
        Ok(ModelKey { folder: self.resolved(&source.uri)?, config, components, sha256, merges })
    }

    fn resolved(&self, uri: &str) -> Result<PathBuf, SourceError> {
        let path = file_path(uri)?;
        let folder = match Path::new(&path).canonicalize() {
            Ok(folder) => folder,
            // Whether a path outside the roots exists is nobody's business.
            Err(_) if !self.0.iter().any(|root| Path::new(&path).starts_with(root)) => return Err(SourceError::Outside),
            Err(error) => return Err(SourceError::OpenFolder { source: error }),
        };
        if self.0.iter().any(|root| folder.starts_with(root)) { Ok(folder) } else { Err(SourceError::Outside) }
    }
}

/// The URI of a path that is absolute and text.
pub fn file_uri(path: &Path) -> String {
    // The one character that would be read as another.
    format!("{SCHEME}{}", path.display().to_string().replace('%', "%25"))
}

/// The path of a `file://` URI, percent-decoded.
fn file_path(uri: &str) -> Result<String, SourceError> {
    let encoded = uri.strip_prefix(SCHEME).ok_or(SourceError::Scheme)?;
    if !encoded.starts_with('/') {
        return Err(SourceError::Scheme);
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(SourceError::Scheme)?;
        let mut decoded = [0];
        hex::decode_to_slice(digits, &mut decoded).map_err(|_| SourceError::Scheme)?;
        bytes.extend(decoded);
        rest = tail;
    }
    let path = String::from_utf8(bytes).map_err(|_| SourceError::Scheme)?;
    if path.contains('\0') { Err(SourceError::Scheme) } else { Ok(path) }
}

fn digest(text: &str) -> Result<String, SourceError> {
    let is_hex = text.len() == SHA256_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { Ok(text.to_ascii_lowercase()) } else { Err(SourceError::Digest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: String) -> ModelSource {
        ModelSource { id: "demo".to_owned(), uri, config: None, sha256: None, vae: None, adapters: Vec::new() }
    }

    fn uri(path: &Path) -> String {
        format!("file://{}", path.display())
    }

    /// A root with a folder `demo`, beside a folder `secret` that is outside.
    fn house() -> (tempfile::TempDir, ModelRoots) {
        let house = tempfile::tempdir().unwrap();
        for folder in ["models/demo", "models/two words", "secret"] {
            std::fs::create_dir_all(house.path().join(folder)).unwrap();
        }
        let roots = ModelRoots::resolve(&[house.path().join("models")]).unwrap();
        (house, roots)
    }

    #[test]
    fn folder_below_a_root_is_found() {
        let (house, roots) = house();
        let key = roots.locate(&source(uri(&house.path().join("models/demo")))).unwrap();
        assert!(key.folder.ends_with("models/demo"));
        let spaced = uri(&house.path().join("models")) + "/two%20words";
        assert!(roots.locate(&source(spaced)).unwrap().folder.ends_with("two words"));
    }

    #[test]
    fn path_that_climbs_out_is_refused() {
        let (house, roots) = house();
        for path in ["models/demo/../../secret", "secret", "models/../secret", "nowhere"] {
            let refused = roots.locate(&source(uri(&house.path().join(path))));
            assert!(matches!(refused, Err(SourceError::Outside)), "{path}: {refused:?}");
        }
        let encoded = uri(&house.path().join("models")) + "/%2e%2e/secret";
        assert!(matches!(roots.locate(&source(encoded)), Err(SourceError::Outside)));
    }

    #[test]
    fn autoencoder_lies_below_a_root_too() {
        let (house, roots) = house();
        let with = |path: &str| {
            let vae = VaeSource { id: "vae".to_owned(), uri: uri(&house.path().join(path)), sha256: Some("AB".repeat(32)) };
            roots.locate(&ModelSource { vae: Some(vae), ..source(uri(&house.path().join("models/demo"))) })
        };
        let vae = &with("models/two words").unwrap().components["vae"];
        assert!(vae.path.ends_with("two words") && vae.sha256 == Some("ab".repeat(32)));
        assert!(matches!(with("secret"), Err(SourceError::Outside)));
    }

    #[test]
    fn link_that_leads_out_is_refused() {
        let (house, roots) = house();
        std::os::unix::fs::symlink(house.path().join("secret"), house.path().join("models/link")).unwrap();
        assert!(matches!(roots.locate(&source(uri(&house.path().join("models/link")))), Err(SourceError::Outside)));
    }

    #[test]
    fn sibling_with_the_roots_name_as_prefix_is_outside() {
        let (house, roots) = house();
        std::fs::create_dir(house.path().join("models-private")).unwrap();
        assert!(matches!(roots.locate(&source(uri(&house.path().join("models-private")))), Err(SourceError::Outside)));
    }

    #[test]
    fn other_schemes_and_broken_escapes_are_refused() {
        let (_house, roots) = house();
        for uri in
            ["s3://bucket/model", "/models/demo", "file://models/demo", "file:///%", "file:///%zz", "file:///a%00b", "file:///%ff", ""]
        {
            assert!(matches!(roots.locate(&source(uri.to_owned())), Err(SourceError::Scheme)), "{uri}");
        }
    }

    #[test]
    fn digest_must_be_hex_of_the_right_length() {
        let (house, roots) = house();
        let mut asked = source(uri(&house.path().join("models/demo")));
        asked.sha256 = Some("AB".repeat(32));
        assert_eq!(roots.locate(&asked).unwrap().sha256, Some("ab".repeat(32)));
        asked.sha256 = Some("abc".to_owned());
        assert!(matches!(roots.locate(&asked), Err(SourceError::Digest)));
    }
}
