//! Parts of a model whose weights come from elsewhere: what takes their place is part of the model's digest, and the model's own files stay
//! part of its files' digest, so that a digest that was declared for them holds whatever replaces a part.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::origin::{Origin, own_folder};
use super::{ModelError, OpenPart, VAE};
use crate::json::Config;
use crate::vae::VaeConfig;
use crate::weights::sha256_of_component;

/// What scales latents of the published families, by which people know them.
const SCALING_FACTORS: [(f64, &str); 4] =
    [(0.18215, "Stable Diffusion 1 and 2"), (0.13025, "Stable Diffusion XL"), (1.5305, "Stable Diffusion 3"), (0.3611, "Flux")];

/// A part that has other weights than the model's own.
#[derive(Debug)]
pub(super) struct Replacement {
    /// The part's folder.
    pub(super) part: &'static str,
    /// The model's own files of the part, as far as there are any.
    pub(super) own: Vec<PathBuf>,
    digest: OnceLock<String>,
}

impl Replacement {
    /// Checks what can be known of a part from elsewhere besides the shapes of its weights.
    pub(super) fn new(origin: &Origin, part: &'static str, path: &Path) -> Result<Self, ModelError> {
        if part == VAE {
            check_autoencoder(&origin.folder, path)?;
        }
        Ok(Self { part, own: origin.own_files(part), digest: OnceLock::new() })
    }

    /// SHA-256 in hex of the file that takes the part's place, or of the list of its files. Files are streamed; the result is kept.
    pub(super) fn digest(&self, open: &OpenPart) -> Result<String, ModelError> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest.clone());
        }
        let digest = sha256_of_component(open.index().files())?;
        Ok(self.digest.get_or_init(|| digest).clone())
    }
}

/// An autoencoder's weights may fit by their shapes and still belong to other latents. Where a configuration of one lies beside them, it must
/// describe the model's.
fn check_autoencoder(model: &Path, path: &Path) -> Result<(), ModelError> {
    let beside = if path.is_dir() { own_folder(path, VAE).join("config.json") } else { path.with_file_name("config.json") };
    if !beside.is_file() {
        return Ok(());
    }
    let beside = Config::open(beside)?;
    if beside.class_name()? != Some("AutoencoderKL") {
        return Ok(());
    }
    let (own, other) = (VaeConfig::new(&Config::open(model.join(VAE).join("config.json"))?)?, VaeConfig::new(&beside)?);
    // Neither changes what the weights are.
    let other = VaeConfig { tile_side: own.tile_side, force_upcast: own.force_upcast, ..other };
    if other == own {
        return Ok(());
    }
    let reason = if (own.scaling_factor, own.shift_factor) == (other.scaling_factor, other.shift_factor) {
        let describe = |config: &VaeConfig| format!("{:?} channels with latents of {}", config.channels, config.latent_channels);
        format!("it has {}, the model's {}", describe(&other), describe(&own))
    } else {
        format!("its latents are scaled by {}, the model's by {}", scaling(&other), scaling(&own))
    };
    Err(ModelError::OtherComponent { part: VAE, path: path.to_path_buf(), reason })
}

fn scaling(config: &VaeConfig) -> String {
    match SCALING_FACTORS.iter().find(|(factor, _)| *factor == config.scaling_factor) {
        Some((factor, families)) => format!("{factor}, as those of {families}"),
        None => config.scaling_factor.to_string(),
    }
}
