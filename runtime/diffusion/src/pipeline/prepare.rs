//! A request becomes images: everything that no evaluation changes is computed here, once.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Map, Value};

use super::entry::{Beginning, Entry};
use super::image_state::Course;
use super::window::Window;
use super::{ImageState, InjectedTensors, InvalidRequest, PipelineError, Request, Start};
use crate::adapter::{AdapterError, AdapterRows, AdapterSet};
use crate::conditioning::{Conditioning, Description};
use crate::exec::Exec;
use crate::family::ModelSpec;
use crate::guidance::{Branch, Guidance};
use crate::memory::Computing;
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
    let spec = model.spec();
    injected.check(&[request.samples, spec.latent_channels(), height, width], &request.start)?;
    let sampler = choose_sampler(model, request)?;
    let schedule = sampler.schedule(spec.schedule_request(request.num_inference_steps, [height, width]));
    let schedule = schedule.map_err(InvalidRequest::Sampler)?;
    let training = sampler::training_timesteps(model.scheduler(), &request.sampler_options).map_err(InvalidRequest::Sampler)?;
    let window = Window::of(request, spec.is_flow(), sampler.as_ref(), &schedule, training)?;
    let guidance = guidance(spec, request);
    let adapters = bind(model, request)?;
    let exec = model.exec().with_adapters(AdapterRows::every(&adapters));
    let words = model.conditioner().words(&request.embeddings, model.exec()).map_err(InvalidRequest::from_embeddings)?;
    let conditionings = guidance.branches().iter().map(|branch| condition(model, request, &words, *branch, &exec));
    let conditionings = conditionings.collect::<Result<_, _>>()?;

    let entry = Entry::new(model, request, injected, sampler.as_ref(), &schedule, window.first)?;
    let overlay = overlay(&request.start);
    let end = window.end;
    let course = Arc::new(Course { model: Arc::clone(model), sampler, schedule, guidance, end, conditionings, adapters, overlay });
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

/// Bytes beside the weights that one image of `request` takes at the worst moment. Its size is not checked here.
pub fn image_bytes(computing: &Computing, request: &Request) -> u64 {
    let rows = guidance(computing.spec(), request).branches().len();
    computing.bytes(rows, [request.height, request.width])
}

/// What an inpainting keeps of its picture.
fn overlay(start: &Start) -> Option<Overlay> {
    match start {
        Start::Inpaint { image, mask, .. } => Some(Overlay { original: Arc::clone(image), mask: Arc::clone(mask) }),
        Start::Noise | Start::Image { .. } | Start::Latents { .. } => None,
    }
}

/// Where the strength of guidance is an input of the denoiser, only `true_cfg_scale` asks for a negative prediction, and only where there is
/// something to be negative about.
fn guidance(spec: &dyn ModelSpec, request: &Request) -> Guidance {
    let scale = match (spec.embeds_guidance(), &request.negative_prompt) {
        (false, _) => request.guidance_scale,
        (true, Some(_)) => request.true_cfg_scale,
        (true, None) => 1.0,
    };
    Guidance { scale: scale as f32, rescale: request.guidance_rescale as f32 }
}

fn choose_sampler(model: &Model, request: &Request) -> Result<Arc<dyn Sampler>, InvalidRequest> {
    let name = request.sampler.as_deref();
    sampler::check_kind(name.unwrap_or(model.default_sampler()), model.spec().is_flow())?;
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
    let prompts = match branch {
        Branch::Positive => [Some(request.prompt.as_str()), request.prompt_2.as_deref(), request.prompt_3.as_deref()],
        Branch::Negative => {
            [&request.negative_prompt, &request.negative_prompt_2, &request.negative_prompt_3].map(|prompt| prompt.as_deref())
        }
    };
    let asked = Description {
        branch,
        prompts,
        syntax: request.prompt_syntax,
        words,
        clip_skip: if branch == Branch::Positive { request.clip_skip.unwrap_or(0) } else { 0 },
        max_sequence_length: request.max_sequence_length,
        size: [request.height, request.width],
        from_picture: request.start != Start::Noise,
        micro: &request.micro,
    };
    let encoded = model.conditioner().encode(&asked, exec).map_err(InvalidRequest::from_encoding)?;
    let guidance = model.spec().embeds_guidance().then_some(request.guidance_scale);
    Ok(model.denoiser().prepare(&encoded, guidance, exec)?)
}
