//! From a scheduler's configuration to a sampler, by diffusers' class names.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    Sampler, SamplerError, ddim, ddim_inverse, ddpm, deis, dpm_multistep, dpm_singlestep, euler, euler_ancestral, flow_euler, flow_heun,
    heun, ipndm, kdpm2, kdpm2_ancestral, lcm, lms, pndm, tcd, unipc,
};
use crate::json::Config;

/// One of diffusers' classes.
pub(super) struct Class {
    pub(super) name: &'static str,
    /// The keys of its configuration, in groups.
    pub(super) options: &'static [&'static [&'static str]],
    /// Whether the reference's pipelines hand it their `eta`.
    pub(super) takes_eta: bool,
    /// Whether it is for networks trained by flow matching.
    pub(super) is_flow: bool,
    pub(super) make: fn(&Config) -> Result<Arc<dyn Sampler>, SamplerError>,
}

const CLASSES: [Class; 19] = [
    ddim::CLASS,
    ddpm::CLASS,
    pndm::CLASS,
    lms::CLASS,
    euler::CLASS,
    euler_ancestral::CLASS,
    heun::CLASS,
    kdpm2::CLASS,
    kdpm2_ancestral::CLASS,
    dpm_multistep::CLASS,
    dpm_singlestep::CLASS,
    deis::CLASS,
    unipc::CLASS,
    ipndm::CLASS,
    lcm::CLASS,
    tcd::CLASS,
    ddim_inverse::CLASS,
    flow_euler::CLASS,
    flow_heun::CLASS,
];

/// The reference's default in every class.
const DEFAULT_TRAINING_TIMESTEPS: usize = 1000;

/// Classes of the reference that are left out, and why.
const REFUSED: [(&str, &str); 3] = [
    (
        "KarrasVeScheduler",
        "it drives pixel models of the variance-exploding process, which no latent model is; EulerDiscreteScheduler with use_karras_sigmas is its counterpart",
    ),
    (
        "ScoreSdeVeScheduler",
        "it drives pixel models of the variance-exploding process, which no latent model is; EulerAncestralDiscreteScheduler is its counterpart",
    ),
    (
        "DPMSolverSDEScheduler",
        "its noise comes from a Brownian tree of the library torchsde, which is not reproduced here; DPMSolverMultistepScheduler with algorithm_type sde-dpmsolver++ is its counterpart",
    ),
];

/// The class names served.
pub const SAMPLER_NAMES: &[&str] = &names();

const fn names() -> [&'static str; CLASSES.len()] {
    let mut names = [""; CLASSES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = CLASSES[index].name;
        index += 1;
    }
    names
}

fn class(name: &str) -> Result<&'static Class, SamplerError> {
    static SERVED: [Class; CLASSES.len()] = CLASSES;
    if let Some(class) = SERVED.iter().find(|class| class.name == name) {
        return Ok(class);
    }
    match REFUSED.iter().find(|(refused, _)| *refused == name) {
        Some((name, reason)) => Err(SamplerError::RefusedSampler { name, reason }),
        None => Err(SamplerError::UnknownSampler { name: name.to_owned() }),
    }
}

/// The options of the sampler called `name`, as its configuration and a request may set them; none for one that is not served.
pub fn option_names(name: &str) -> Vec<&'static str> {
    class(name).map(|class| class.options.concat()).unwrap_or_default()
}

/// Whether the sampler called `name` heeds `eta`. The reference's pipelines take it with any sampler.
pub fn takes_eta(name: &str) -> bool {
    class(name).is_ok_and(|class| class.takes_eta)
}

/// Whether the sampler called `name` is for networks trained by flow matching; `false` for one that is not served.
pub fn is_flow(name: &str) -> bool {
    class(name).is_ok_and(|class| class.is_flow)
}

/// Refuses a sampler that is not for models of this kind. Names that are not served pass: another check refuses them.
///
/// # Errors
/// [`SamplerError::OtherKind`].
pub fn check_kind(name: &str, model_is_flow: bool) -> Result<(), SamplerError> {
    match class(name) {
        Ok(class) if class.is_flow != model_is_flow => Err(SamplerError::OtherKind { name: name.to_owned(), model_is_flow }),
        _ => Ok(()),
    }
}

/// The names of all samplers for models of a kind.
pub(super) fn names_of_kind(is_flow: bool) -> String {
    let names: Vec<_> = CLASSES.iter().filter(|class| class.is_flow == is_flow).map(|class| class.name).collect();
    names.join(", ")
}

/// How many timesteps the training had, as `config` with a request's `options` says: what shares of a schedule are counted in.
///
/// # Errors
/// [`SamplerError::Config`] for a value that is no number.
pub fn training_timesteps(config: &Config, options: &Map<String, Value>) -> Result<usize, SamplerError> {
    Ok(config.overridden(options).usize("num_train_timesteps")?.unwrap_or(DEFAULT_TRAINING_TIMESTEPS))
}

/// Makes the sampler that `config` (a `scheduler_config.json`) names, or the one called `class_name_override`.
///
/// As diffusers' `from_config`, keys of other schedulers in the configuration are ignored and absent keys take the class's own
/// defaults. `options` (the request's) go on top: keys of the sampler's configuration, and `eta`, which samplers other than
/// those of [`takes_eta`] ignore. `null` means the default.
///
/// # Errors
/// [`SamplerError`] for a name that is not served, a value that is not usable, or a request's option that the sampler does not
/// have. The configuration file may hold any key, but a request that sets one without effect would be misled.
pub fn from_config(
    config: &Config,
    class_name_override: Option<&str>,
    options: &Map<String, Value>,
) -> Result<Arc<dyn Sampler>, SamplerError> {
    let name = match class_name_override {
        Some(name) => name,
        None => config.class_name()?.ok_or(SamplerError::NoSampler)?,
    };
    let class = class(name)?;
    let known = |key: &str| key == "eta" || class.options.iter().any(|group| group.contains(&key));
    if let Some(option) = options.keys().find(|key| !known(key)) {
        let known = class.options.concat().join(", ");
        return Err(SamplerError::UnknownOption { sampler: class.name, option: option.clone(), known });
    }
    (class.make)(&config.overridden(options))
}
