//! What follows from a model's family.

use super::Family;

/// What latents are: a VAE of one kind is of no use to a model of another, even where its shapes fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latents {
    /// 4 channels, scaled by 0.18215.
    StableDiffusion,
    /// 4 channels, scaled by 0.13025.
    StableDiffusionXl,
    /// 16 channels, scaled by 1.5305.
    StableDiffusion3,
    /// 16 channels, scaled by 0.3611.
    Flux,
}

impl Family {
    /// As manifests spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd15 => "sd15",
            Self::Sd21 => "sd21",
            Self::Sdxl => "sdxl",
            Self::SdxlRefiner => "sdxl-refiner",
            Self::Sd3 => "sd3",
            Self::Sd35Medium => "sd35-medium",
            Self::Sd35Large => "sd35-large",
            Self::FluxDev => "flux-dev",
            Self::FluxSchnell => "flux-schnell",
        }
    }

    /// The latents that its denoiser and its VAE share.
    pub fn latents(self) -> Latents {
        match self {
            Self::Sd15 | Self::Sd21 => Latents::StableDiffusion,
            Self::Sdxl | Self::SdxlRefiner => Latents::StableDiffusionXl,
            Self::Sd3 | Self::Sd35Medium | Self::Sd35Large => Latents::StableDiffusion3,
            Self::FluxDev | Self::FluxSchnell => Latents::Flux,
        }
    }

    /// Both sides of an image are multiples of this, in pixels: the autoencoder's scale, times the side of the patches where the denoiser reads
    /// patches.
    pub fn size_multiple(self) -> i32 {
        match self.latents() {
            Latents::StableDiffusion | Latents::StableDiffusionXl => 8,
            Latents::StableDiffusion3 | Latents::Flux => 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_manifests() {
        for family in [
            Family::Sd15,
            Family::Sd21,
            Family::Sdxl,
            Family::SdxlRefiner,
            Family::Sd3,
            Family::Sd35Medium,
            Family::Sd35Large,
            Family::FluxDev,
            Family::FluxSchnell,
        ] {
            assert_eq!(serde_json::to_value(family).unwrap(), family.name());
        }
    }
}
