//! Checkpoints that are one file: whose family they are, by names and shapes in the header alone, and how each part is called in them.

use super::Part;
use crate::weights::{Layout, Names, TensorIndex};

/// What the header of a checkpoint tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// The family, as manifests spell it.
    pub family: &'static str,
    /// The built-in configuration that fits.
    pub configuration: &'static str,
    /// Whether the model reads text with T5, whose tokenizer is not built in.
    pub reads_t5: bool,
}

const PREFIX: &str = "model.diffusion_model.";
const T5: &str = "text_encoders.t5xxl.";

/// Every family that a header can be of: one, unless two checkpoints were mixed up in it or it is something else.
pub fn recognise(index: &TensorIndex) -> Vec<Recognised> {
    let header = Header(index);
    [header.unet(), header.joint_blocks(), header.double_blocks()].into_iter().flatten().collect()
}

const SD15: &[&str] = &["sd15"];
const SD21: &[&str] = &["sd21"];
const SDXL: &[&str] = &["sdxl"];
const REFINER: &[&str] = &["sdxl-refiner"];
const SD3: &[&str] = &["sd3", "sd35-medium", "sd35-large"];
const FLUX: &[&str] = &["flux-dev", "flux-schnell"];

/// Families, a part's folder, and what may stand before and in the names of its tensors.
const LAYOUTS: &[(&[&str], &str, &[Layout])] = &[
    (SD15, "text_encoder", &[named(OLD_CLIP, Names::Own), named(OLD_CLIP, Names::ClipWithoutModel)]),
    (SD15, "unet", &[named(PREFIX, Names::LdmUnet)]),
    (SD15, "vae", &[named(OLD_VAE, Names::LdmVae)]),
    (SD21, "text_encoder", &[named("cond_stage_model.model.", Names::OpenClip)]),
    (SD21, "unet", &[named(PREFIX, Names::LdmUnet)]),
    (SD21, "vae", &[named(OLD_VAE, Names::LdmVae)]),
    (SDXL, "text_encoder", &[named("conditioner.embedders.0.transformer.", Names::Own)]),
    (SDXL, "text_encoder_2", &[named("conditioner.embedders.1.model.", Names::OpenClip)]),
    (SDXL, "unet", &[named(PREFIX, Names::LdmUnet)]),
    (SDXL, "vae", &[named(OLD_VAE, Names::LdmVae)]),
    (REFINER, "text_encoder_2", &[named("conditioner.embedders.0.model.", Names::OpenClip)]),
    (REFINER, "unet", &[named(PREFIX, Names::LdmUnet)]),
    (REFINER, "vae", &[named(OLD_VAE, Names::LdmVae)]),
    (SD3, "text_encoder", &[named("text_encoders.clip_l.transformer.", Names::Own)]),
    (SD3, "text_encoder_2", &[named("text_encoders.clip_g.transformer.", Names::Own)]),
    (SD3, "text_encoder_3", &[named("text_encoders.t5xxl.transformer.", Names::Own)]),
    (SD3, "transformer", &[named(PREFIX, Names::Mmdit), named("", Names::Mmdit)]),
    (SD3, "vae", &[named(OLD_VAE, Names::LdmVae), named("vae.", Names::LdmVae)]),
    (FLUX, "text_encoder", &[named("text_encoders.clip_l.transformer.", Names::Own)]),
    (FLUX, "text_encoder_2", &[named("text_encoders.t5xxl.transformer.", Names::Own)]),
    (FLUX, "transformer", &[named(PREFIX, Names::Flux), named("", Names::Flux)]),
    (FLUX, "vae", &[named("vae.", Names::LdmVae), named(OLD_VAE, Names::LdmVae)]),
];

const OLD_CLIP: &str = "cond_stage_model.transformer.";
const OLD_VAE: &str = "first_stage_model.";

const fn named(prefix: &'static str, names: Names) -> Layout {
    Layout { prefix, names }
}

/// The layouts that a part of a checkpoint can have within it.
pub fn layouts_within(family: &str, part: &Part) -> &'static [Layout] {
    let found = LAYOUTS.iter().find(|(families, folder, _)| *folder == part.folder && families.contains(&family));
    found.map_or(&[], |(_, _, layouts)| layouts)
}

/// The layouts that a part can have in a file of its own, the likeliest first.
pub fn layouts_alone(family: &str, part: &Part) -> Vec<Layout> {
    let bare = Layout { prefix: "", names: Names::Own };
    let mut layouts = vec![bare];
    for within in layouts_within(family, part) {
        layouts.extend([*within, Layout { prefix: "", names: within.names }]);
    }
    layouts
}

/// A header, asked for what tells families apart.
struct Header<'a>(&'a TensorIndex);

impl Header<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    fn has_below(&self, prefix: &str) -> bool {
        self.0.iter_from(prefix).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    fn size(&self, name: &str, dimension: usize) -> Option<usize> {
        self.0.get(name)?.shape.get(dimension).copied()
    }

    /// Stable Diffusion 1.x, 2.x, XL and its refiner: the text encoders tell, and where there are none the width of the text.
    fn unet(&self) -> Option<Recognised> {
        let inputs = self.size(&format!("{PREFIX}input_blocks.0.0.weight"), 1)?;
        let inpainting = inputs == 9;
        let is_xl = self.has(&format!("{PREFIX}label_emb.0.0.weight"));
        let context = self.0.iter_from(PREFIX).take_while(|(name, _)| name.starts_with(PREFIX));
        let width = context.filter(|(name, _)| name.ends_with(".attn2.to_k.weight")).find_map(|(_, info)| info.shape.get(1).copied());
        let encoders = [
            (false, "cond_stage_model.transformer.", "sd15"),
            (false, "cond_stage_model.model.", "sd21"),
            (true, "conditioner.embedders.1.model.", "sdxl"),
            (true, "conditioner.embedders.0.model.", "sdxl-refiner"),
        ];
        let by_encoder = encoders.iter().find(|(xl, prefix, _)| *xl == is_xl && self.has_below(prefix)).map(|(_, _, family)| *family);
        let family = by_encoder.or(match (is_xl, width?) {
            (false, 768) => Some("sd15"),
            (false, 1024) => Some("sd21"),
            (true, 2048) => Some("sdxl"),
            (true, 1280) => Some("sdxl-refiner"),
            _ => None,
        })?;
        // What its authors call the marks of a velocity model, and Stability's metadata.
        let says = |value: &str| self.0.metadata("modelspec.prediction_type") == Some(value);
        let configuration = match (family, inpainting) {
            ("sd15", true) => "sd15-inpainting",
            ("sd21", true) => "sd21-inpainting",
            ("sd21", false) if says("epsilon") => "sd21-base",
            ("sdxl", true) => "sdxl-inpainting",
            ("sdxl", false) if self.has("ztsnr") => "sdxl-v-zero-snr",
            ("sdxl", false) if self.has("v_pred") || says("v") => "sdxl-v",
            (family, _) => family,
        };
        Some(Recognised { family, configuration, reads_t5: false })
    }

    /// Stable Diffusion 3 and 3.5.
    fn joint_blocks(&self) -> Option<Recognised> {
        let first = |rest: &str| [PREFIX, ""].iter().any(|prefix| self.has(&format!("{prefix}joint_blocks.0.x_block.{rest}")));
        first("attn.qkv.weight").then_some(())?;
        let has_t5 = self.has_below(T5);
        let (family, configuration) = match (first("attn.ln_q.weight"), first("attn2.qkv.weight"), has_t5) {
            (false, _, true) => ("sd3", "sd3"),
            (false, _, false) => ("sd3", "sd3-without-t5"),
            (true, true, true) => ("sd35-medium", "sd35-medium"),
            (true, true, false) => ("sd35-medium", "sd35-medium-without-t5"),
            (true, false, true) => ("sd35-large", "sd35-large"),
            (true, false, false) => ("sd35-large", "sd35-large-without-t5"),
        };
        Some(Recognised { family, configuration, reads_t5: has_t5 })
    }

    /// Flux.
    fn double_blocks(&self) -> Option<Recognised> {
        let has = |rest: &str| [PREFIX, ""].iter().any(|prefix| self.has(&format!("{prefix}{rest}")));
        (has("double_blocks.0.img_attn.qkv.weight") && has("img_in.weight")).then_some(())?;
        let family = if has("guidance_in.in_layer.weight") { "flux-dev" } else { "flux-schnell" };
        Some(Recognised { family, configuration: family, reads_t5: true })
    }
}
