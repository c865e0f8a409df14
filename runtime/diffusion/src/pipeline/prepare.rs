//! A request becomes images: everything that no evaluation changes is computed here, once.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Map, Value};

use super::entry::{Beginning, Entry};
use super::image_state::Course;
use super::{ImageState, InjectedTensors, InvalidRequest, PipelineError, Request, Start};
use crate::adapter::{AdapterError, AdapterRows, AdapterSet};
use crate::conditioning::Conditioning;
use crate::exec::Exec;
use crate::guidance::{Branch, Guidance};
use crate::model::Model;
use crate::picture::Overlay;
use crate::sampler::{self, NoiseStream, Sampler, SamplerState};
use crate::text::RequestWords;

/// One state per sample, all at the evaluation that the request begins with, noise drawn from (seed, index of the sample).
///
/// # Errors
/// [`PipelineError::InvalidRequest`] where the request asks for what cannot be; nothing has been computed then.
pub fn prepare(model: &Arc<Model>, request: &Request, injected: &InjectedTensors) -> Result<Vec<ImageState>, PipelineError> {
    request.check(model)?;
    let [height, width] = request.latent_size(model);
    injected.check(&[request.samples, model.latent_channels(), height, width], &request.start)?;
    let sampler = choose_sampler(model, request)?;
    let schedule = sampler.schedule(request.num_inference_steps).map_err(InvalidRequest::Sampler)?;
    let guidance = Guidance { scale: request.guidance_scale as f32, rescale: request.guidance_rescale as f32 };
    let adapters = bind(model, request)?;
    let exec = model.exec().with_adapters(AdapterRows::every(&adapters));
    let words = model.text().words(&request.embeddings, model.exec()).map_err(InvalidRequest::from_embeddings)?;
    let conditionings = guidance.branches().iter().map(|branch| condition(model, request, &words, *branch, &exec));
    let conditionings = conditionings.collect::<Result<_, _>>()?;

    let entry = Entry::new(model, request, injected, sampler.as_ref(), &schedule)?;
    let overlay = overlay(&request.start);
    let course = Arc::new(Course { model: Arc::clone(model), sampler, schedule, guidance, conditionings, adapters, overlay });
    let given: Arc<[Tensor]> = injected.noise.clone().into();
    let image = |index: usize| {
        let mut noise = match given.is_empty() {
            true => NoiseStream::seeded(request.seed, index),
            false => NoiseStream::given(Arc::clone(&given), index),
        };
        let Beginning { first, latents, blend, concat } = entry.begin(index, &mut noise, model)?;
        Ok(ImageState { course: Arc::clone(&course), latents, sampler_state: SamplerState::new(first, noise), blend, concat })
    };
    (0..request.samples).map(image).collect()
}

/// What an inpainting keeps of its picture.
fn overlay(start: &Start) -> Option<Overlay> {
    match start {
        Start::Inpaint { image, mask, .. } => Some(Overlay { original: Arc::clone(image), mask: Arc::clone(mask) }),
        Start::Noise | Start::Image { .. } => None,
    }
}

fn choose_sampler(model: &Model, request: &Request) -> Result<Arc<dyn Sampler>, InvalidRequest> {
    let name = request.sampler.as_deref();
    let mut options: Map<String, Value> = request.sampler_options.clone();
    if request.eta > 0.0 && sampler::takes_eta(name.unwrap_or(model.default_sampler())) {
        options.insert("eta".to_owned(), request.eta.into());
    }
    Ok(sampler::from_config(model.scheduler(), name, &options)?)
}

/// All adapters that are asked for, or none; a strength of 0 is no adapter.
fn bind(model: &Model, request: &Request) -> Result<AdapterSet, PipelineError> {
    let asked = request.adapters.iter().zip(1..).filter(|(asked, _)| asked.scale != 0.0);
    let bound = asked.map(|(asked, number)| {
        model.bind(asked).map_err(|source| match source {
            AdapterError::Tensor(source) => PipelineError::Tensor(source),
            source => InvalidRequest::Adapter { number, source: Box::new(source) }.into(),
        })
    });
    Ok(AdapterSet::new(bound.collect::<Result<Vec<_>, PipelineError>>()?))
}

/// As diffusers: `clip_skip` applies to the prompt alone.
fn condition(model: &Model, request: &Request, words: &RequestWords, branch: Branch, exec: &Exec) -> Result<Conditioning, PipelineError> {
    let (field, text, skip) = match branch {
        Branch::Positive => ("prompt", request.prompt.as_str(), request.clip_skip.unwrap_or(0)),
        Branch::Negative => ("negative_prompt", request.negative_prompt.as_deref().unwrap_or(""), 0),
    };
    let states = model.text().encode(text, request.prompt_syntax, words, skip, exec);
    let states = states.map_err(|error| InvalidRequest::from_encoding(field, error))?;
    Ok(Conditioning { context: Arc::new(model.denoiser().prepare(&states, exec)?) })
}
