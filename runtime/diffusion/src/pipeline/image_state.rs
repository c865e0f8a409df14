//! One image on its way: all that persists between evaluations.

use std::sync::Arc;

use candle_core::Tensor;

use super::entry::MaskBlend;
use crate::adapter::AdapterSet;
use crate::conditioning::Conditioning;
use crate::denoiser::BatchKey;
use crate::guidance::Guidance;
use crate::model::Model;
use crate::picture::Overlay;
use crate::sampler::{Sampler, SamplerState, Schedule};

/// What the samples of one request share.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) model: Arc<Model>,
    pub(super) sampler: Arc<dyn Sampler>,
    pub(super) schedule: Schedule,
    pub(super) guidance: Guidance,
    /// The evaluation before which the images are finished.
    pub(super) end: usize,
    /// One for each of the guidance's branches, in their order.
    pub(super) conditionings: Vec<Conditioning>,
    pub(super) adapters: AdapterSet,
    /// What of a picture stands in the finished ones.
    pub(super) overlay: Option<Overlay>,
}

/// One image: a number of evaluations done, and tensors. It can be moved, paused, and continued in any batch.
#[derive(Clone, Debug)]
pub struct ImageState {
    pub(super) course: Arc<Course>,
    pub(super) latents: Tensor,
    pub(super) sampler_state: SamplerState,
    /// What is put back after each update.
    pub(super) blend: Option<MaskBlend>,
    /// [channels, h, w] f32: what the denoiser reads beside the latents.
    pub(super) concat: Option<Tensor>,
}

impl ImageState {
    /// Evaluations done, and all there are. Some samplers make two evaluations for a step.
    pub fn progress(&self) -> (usize, usize) {
        let first = self.sampler_state.first;
        (self.sampler_state.at - first, self.course.end - first)
    }

    /// Whether it only needs decoding.
    pub fn is_finished(&self) -> bool {
        self.sampler_state.at >= self.course.end
    }

    /// [c, h, w] f32, as the sampler left them.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// The model it is made with.
    pub fn model(&self) -> &Arc<Model> {
        &self.course.model
    }

    /// Rows it brings to each call: one for each prediction that guidance asks for.
    pub fn rows(&self) -> usize {
        self.course.conditionings.len()
    }

    /// Bytes beside the weights that each of its rows takes in a call.
    pub fn row_bytes(&self) -> u64 {
        let rows = self.rows().max(1);
        let size = match self.latents.dims() {
            [_, height, width] => [*height, *width],
            _ => [0, 0],
        };
        self.course.model.computing().denoising_bytes(rows, size) / rows as u64
    }

    /// What it has in common with those it can share a call with.
    pub fn batch_key(&self) -> BatchKey {
        let mut latent_shape = [0; 3];
        for (to, from) in latent_shape.iter_mut().zip(self.latents.dims()) {
            *to = *from;
        }
        let concat_channels = self.concat.as_ref().map_or(0, |concat| concat.dims()[0]);
        let joint_tokens = self.course.conditionings.first().map_or(0, |conditioning| conditioning.context.joint_tokens());
        BatchKey { model: self.course.model.id(), latent_shape, concat_channels, joint_tokens }
    }
}
