//! What a request that leaves something open gets: the manifest's word, or else what suits the model's family.

use super::{Family, GenerationDefaults, Limits};

/// Defaults as far as they are known here; what is absent follows from the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveDefaults {
    /// diffusers' class name; absent: the one in the model's folder.
    pub sampler: Option<String>,
    /// Denoising steps.
    pub steps: Option<i32>,
    /// Guidance scale.
    pub guidance_scale: Option<f64>,
    /// Width in pixels.
    pub width: Option<i32>,
    /// Height in pixels.
    pub height: Option<i32>,
}

/// The most steps that a family was made for.
const MOST_STEPS: i32 = 50;
/// The least and the largest side, in pixels, that families were made for.
const SIDE_RANGE: (i32, i32) = (512, 1024);

impl GenerationDefaults {
    /// Fills what the manifest leaves open from `family`, kept within `limits`. Of an unknown family only what the limits decide is filled.
    pub fn effective(&self, family: Option<Family>, limits: &Limits) -> EffectiveDefaults {
        let usual = family.map(usual);
        let steps = match usual {
            Some((steps, ..)) => Some(steps.min(limits.max_steps)),
            None => (limits.max_steps < MOST_STEPS).then_some(limits.max_steps),
        };
        let side = |min: i32, max: i32| match usual {
            Some((.., side)) => Some(fit(side, min, max)),
            None => (min > SIDE_RANGE.0 || max < SIDE_RANGE.1).then(|| fit(SIDE_RANGE.0, min, max)),
        };
        EffectiveDefaults {
            sampler: self.sampler.clone(),
            steps: self.steps.or(steps),
            guidance_scale: self.guidance_scale.or(usual.map(|(_, guidance_scale, _)| guidance_scale)),
            width: self.width.or_else(|| side(limits.min_width, limits.max_width)),
            height: self.height.or_else(|| side(limits.min_height, limits.max_height)),
        }
    }
}

/// Steps, guidance scale and side in pixels of diffusers' pipelines for the family's published models.
fn usual(family: Family) -> (i32, f64, i32) {
    match family {
        Family::Sd15 => (MOST_STEPS, 7.5, 512),
        Family::Sd21 => (MOST_STEPS, 7.5, 768),
        Family::Sdxl | Family::SdxlRefiner => (MOST_STEPS, 5.0, 1024),
        Family::Sd3 | Family::Sd35Medium | Family::Sd35Large => (28, 7.0, 1024),
        Family::FluxDev => (28, 3.5, 1024),
        Family::FluxSchnell => (4, 3.5, 1024),
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
        assert_eq!((effective.steps, effective.width, effective.height), (Some(20), Some(64), Some(1024)));
    }

    #[test]
    fn a_familys_usual_size_is_kept_within_limits() {
        let limits = Limits { max_width: 256, max_steps: 10, ..Limits::default() };
        let effective = GenerationDefaults::default().effective(Some(Family::Sd15), &limits);
        assert_eq!((effective.steps, effective.width, effective.height), (Some(10), Some(256), Some(512)));
    }

    #[test]
    fn of_an_unknown_family_only_limits_decide() {
        let open = GenerationDefaults::default().effective(None, &Limits::default());
        assert_eq!((open.steps, open.guidance_scale, open.width, open.height), (None, None, None, None));
        let limits = Limits { max_width: 256, min_height: 640, max_steps: 10, ..Limits::default() };
        let bound = GenerationDefaults { guidance_scale: Some(2.0), ..GenerationDefaults::default() }.effective(None, &limits);
        assert_eq!((bound.steps, bound.guidance_scale, bound.width, bound.height), (Some(10), Some(2.0), Some(256), Some(640)));
    }
}
