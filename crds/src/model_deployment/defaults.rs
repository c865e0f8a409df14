//! What a request that leaves something open gets: the manifest's word, or else what suits the model's family.

use super::{Family, GenerationDefaults, Limits};

/// Defaults with nothing left open but the sampler, which the model's own folder may name.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveDefaults {
    /// diffusers' class name; absent: the one in the model's folder.
    pub sampler: Option<String>,
    /// Denoising steps.
    pub steps: i32,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Width in pixels.
    pub width: i32,
    /// Height in pixels.
    pub height: i32,
}

impl GenerationDefaults {
    /// Fills what the manifest leaves open from `family` (unknown: as for sd15), kept within `limits`.
    pub fn effective(&self, family: Option<Family>, limits: &Limits) -> EffectiveDefaults {
        let (steps, guidance_scale, side) = usual(family.unwrap_or(Family::Sd15));
        EffectiveDefaults {
            sampler: self.sampler.clone(),
            steps: self.steps.unwrap_or(steps.min(limits.max_steps)),
            guidance_scale: self.guidance_scale.unwrap_or(guidance_scale),
            width: self.width.unwrap_or_else(|| fit(side, limits.min_width, limits.max_width)),
            height: self.height.unwrap_or_else(|| fit(side, limits.min_height, limits.max_height)),
        }
    }
}

/// Steps, guidance scale and side in pixels that a family was made for.
fn usual(family: Family) -> (i32, f64, i32) {
    match family {
        Family::Sd15 => (30, 7.5, 512),
        Family::Sd21 => (30, 7.5, 768),
        Family::Sdxl | Family::SdxlRefiner => (30, 5.0, 1024),
        Family::Sd3 => (28, 7.0, 1024),
        Family::Sd35Medium => (40, 4.5, 1024),
        Family::Sd35Large => (28, 3.5, 1024),
        Family::FluxDev => (28, 3.5, 1024),
        Family::FluxSchnell => (4, 0.0, 1024),
    }
}

/// The side nearest to the usual one that limits allow. Both bounds are multiples of what sizes must be multiples of
/// (a rule), and so is every usual side for the common multiples 8, 16, 32 and 64 within them.
fn fit(side: i32, min: i32, max: i32) -> i32 {
    side.min(max).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manifest_says_goes_before_the_family() {
        let defaults = GenerationDefaults { steps: Some(20), width: Some(64), ..GenerationDefaults::default() };
        let effective = defaults.effective(Some(Family::Sdxl), &Limits::default());
        assert_eq!((effective.steps, effective.width, effective.height), (20, 64, 1024));
    }

    #[test]
    fn a_familys_usual_size_is_kept_within_limits() {
        let limits = Limits { max_width: 256, max_steps: 10, ..Limits::default() };
        let effective = GenerationDefaults::default().effective(None, &limits);
        assert_eq!((effective.steps, effective.width, effective.height), (10, 256, 512));
    }
}
