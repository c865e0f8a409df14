//! From a scheduler's configuration to a sampler, by diffusers' class names.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::ddim::{self, Ddim};
use super::euler::{self, Euler};
use super::euler_ancestral::{self, EulerAncestral};
use super::{Sampler, SamplerError};
use crate::json::Config;

/// The class names served.
pub const SAMPLER_NAMES: &[&str] = &[ddim::NAME, euler::NAME, euler_ancestral::NAME];

/// Makes the sampler that `config` (a `scheduler_config.json`) names, or the one called `class_name_override`.
///
/// As diffusers' `from_config`, keys of other schedulers in the configuration are ignored and absent keys take the class's own
/// defaults. `options` (the request's) go on top: keys of the sampler's configuration, and `eta`, which samplers other than
/// DDIM ignore. `null` means the default.
///
/// # Errors
/// [`SamplerError`] for a name that is not served, a value that is not usable, or a request's option that the sampler does not
/// have.
pub fn from_config(
    config: &Config,
    class_name_override: Option<&str>,
    options: &Map<String, Value>,
) -> Result<Arc<dyn Sampler>, SamplerError> {
    let name = match class_name_override {
        Some(name) => name,
        None => config.class_name()?.ok_or(SamplerError::NoSampler)?,
    };
    let config = config.overridden(options);
    match name {
        ddim::NAME => Ok(Arc::new(Ddim::new(&config, options)?)),
        euler::NAME => Ok(Arc::new(Euler::new(&config, options)?)),
        euler_ancestral::NAME => Ok(Arc::new(EulerAncestral::new(&config, options)?)),
        unknown => Err(SamplerError::UnknownSampler { name: unknown.to_owned() }),
    }
}
