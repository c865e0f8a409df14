//! One image by two models: what each of them is asked for.

use diffusion::Tensor;
use diffusion::conditioning::MicroConditioning;
use diffusion::pipeline::{GivenLatents, Start};

use super::Request;

/// What the first model is asked for where another goes on from `start`. What acts on the second alone is kept from it.
pub fn before(request: Request, start: f64) -> Request {
    let usual = MicroConditioning::default();
    let (aesthetic_score, negative_aesthetic_score) = (usual.aesthetic_score, usual.negative_aesthetic_score);
    let micro = MicroConditioning { aesthetic_score, negative_aesthetic_score, ..request.micro };
    Request { micro, denoising_end: Some(start), ..request }
}

/// What the second model is asked for, to finish `latents` [samples, c, h, w] that the first left of `request`. What acts on the first alone stays
/// with it.
pub(super) fn after(request: &Request, latents: Tensor, start: f64) -> Request {
    Request {
        prompt_2: None,
        negative_prompt_2: None,
        micro: MicroConditioning { target_size: None, negative_target_size: None, ..request.micro.clone() },
        embeddings: Vec::new(),
        adapters: Vec::new(),
        start: Start::Latents { latents: GivenLatents(latents), strength: 1.0 },
        denoising_start: Some(start),
        denoising_end: None,
        ..request.clone()
    }
}
