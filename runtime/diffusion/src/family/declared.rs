//! What `model_index.json` declares, read the same way by every family.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{Part, SpecError};
use crate::denoiser::UNetConfig;
use crate::json::{Config, ConfigError};
use crate::text::ClipTextConfig;
use crate::tokenizer::Tokenizer;
use crate::vae::VaeConfig;

/// Whether `model_index.json` says that there is no such part: as in the reference, by two nulls or by leaving it out.
pub(super) fn is_absent(model_index: &Config, folder: &str) -> bool {
    match model_index.value(folder) {
        None => true,
        Some(Value::Array(library_and_class)) => library_and_class.iter().all(Value::is_null),
        Some(_) => false,
    }
}

/// Checks that all `parts` are declared as what they must be.
///
/// # Errors
/// Naming the part whose class is another or that is not declared.
pub(super) fn check(model_index: &Config, parts: &[Part]) -> Result<(), ConfigError> {
    parts.iter().try_for_each(|part| match is_absent(model_index, part.folder) {
        true => Err(model_index.missing(part.folder, part.class)),
        false => match model_index.strings(part.folder)?.as_deref() {
            Some([_, class]) if class == part.class => Ok(()),
            _ => Err(model_index.unaccepted(part.folder, part.class)),
        },
    })
}

/// A text encoder's tokenizer. Also checks that the encoder has a row for every token and every position: an index out of range is no error
/// of a request.
pub(super) fn tokenizer(folder: &Path, name: &'static str, encoder: &ClipTextConfig) -> Result<Arc<Tokenizer>, SpecError> {
    let tokenizer = Tokenizer::open(&folder.join(name)).map_err(|source| SpecError::Tokenizer { folder: name, source })?;
    let mismatch = |reason| Err(SpecError::TokenizerMismatch { folder: name, reason });
    if tokenizer.max_id() as usize >= encoder.vocabulary {
        let (largest, rows) = (tokenizer.max_id(), encoder.vocabulary);
        return mismatch(format!("its largest id is {largest}, the text encoder has {rows} embeddings"));
    }
    if tokenizer.model_max_length() > encoder.tokens {
        let (longest, positions) = (tokenizer.model_max_length(), encoder.tokens);
        return mismatch(format!("it makes {longest} tokens, the text encoder has {positions} positions"));
    }
    Ok(Arc::new(tokenizer))
}

/// Checks that a UNet's latents are the autoencoder's: it reads those alone, or for inpainting also a mask and the latents of the picture
/// without what is drawn anew.
///
/// # Errors
/// Naming the UNet's key and value.
pub(super) fn latents_fit(unet_file: &Config, unet: &UNetConfig, vae: &VaeConfig) -> Result<(), ConfigError> {
    let latent = vae.latent_channels;
    let inpainting = latent + 1 + latent;
    if unet.out_channels != latent {
        return Err(unet_file.unaccepted("out_channels", &format!("{latent}, the latent_channels of the VAE")));
    }
    if unet.in_channels != latent && unet.in_channels != inpainting {
        let accepted = format!("{latent}, the latent_channels of the VAE, or {inpainting} for inpainting");
        return Err(unet_file.unaccepted("in_channels", &accepted));
    }
    Ok(())
}
