//! Which of a schedule's evaluations a request runs: all of them, those that its strength leaves, or a share named by its noise.

use super::{InvalidRequest, Request};
use crate::sampler::{Sampler, Schedule};

/// Evaluations from `first` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Window {
    /// As diffusers' `get_timesteps` and its `denoising_end`: shares are counted in `training` timesteps, whatever the schedule's spacing, so
    /// that what one model leaves off is where another goes on.
    ///
    /// # Errors
    /// [`InvalidRequest`] if no evaluation is left, or a share is none.
    pub(super) fn of(
        request: &Request,
        is_flow: bool,
        sampler: &dyn Sampler,
        schedule: &Schedule,
        training: usize,
    ) -> Result<Self, InvalidRequest> {
        let per_step = sampler.evaluations_per_step();
        let first = match request.denoising_start {
            Some(share) => entered_at(schedule, cutoff("denoising_start", share, training)?, per_step),
            None => request.start.first_evaluation(request.num_inference_steps, per_step, is_flow)?,
        };
        let end = match request.denoising_end {
            Some(share) => {
                let cutoff = cutoff("denoising_end", share, training)?;
                first + schedule.timesteps[first..].iter().filter(|timestep| f64::from(**timestep) >= cutoff).count()
            }
            None => schedule.num_evaluations(),
        };
        let is_order_wrong = matches!((request.denoising_start, request.denoising_end), (Some(start), Some(end)) if start >= end);
        if first >= end || is_order_wrong {
            return Err(InvalidRequest::NothingBetween { start: request.denoising_start, end: request.denoising_end });
        }
        Ok(Self { first, end })
    }
}

/// The timestep at a share of the way from noise to image, as Python rounds it.
fn cutoff(name: &'static str, share: f64, training: usize) -> Result<f64, InvalidRequest> {
    if !(share > 0.0 && share < 1.0) {
        return Err(InvalidRequest::Number { name, value: share, accepted: "above 0 and below 1" });
    }
    let training = training as f64;
    Ok((training - share * training).round_ties_even())
}

/// The first evaluation below `cutoff`. One that would be the second half of a step is left to its first.
fn entered_at(schedule: &Schedule, cutoff: f64, per_step: usize) -> usize {
    let below = schedule.timesteps.iter().filter(|timestep| f64::from(**timestep) < cutoff).count();
    let splits_a_step = per_step == 2 && below.is_multiple_of(2);
    schedule.num_evaluations().saturating_sub(below + usize::from(splits_a_step))
}
