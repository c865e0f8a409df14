//! One evaluation of many images: gather rows, one call per key, combine per image, scatter.

use candle_core::Tensor;

use super::{ImageState, PipelineError};
use crate::denoiser::Row;
use crate::ops::{Term, combine};
use crate::sampler::{Combination, NoiseMix, Update};

/// What one [`step`] did.
#[derive(Debug)]
pub struct StepReport {
    /// One for each image, in their order. An image whose outcome is an error is where it was before.
    pub outcomes: Vec<Result<(), PipelineError>>,
    /// Calls of a denoiser that were made.
    pub denoiser_calls: usize,
    /// Rows of all calls together.
    pub rows: usize,
}

/// Advances each image by one evaluation. Images of equal [`ImageState::batch_key`] share one call, whatever else differs.
///
/// How many may share a call is the caller's decision (see [`super::plan`]). An error belongs to its image alone: should a shared call
/// fail, each of its images is tried by itself.
pub fn step(images: &mut [&mut ImageState]) -> StepReport {
    let mut report = StepReport { outcomes: images.iter().map(|_| Ok(())).collect(), denoiser_calls: 0, rows: 0 };
    for group in groups(images) {
        let shared = run(images, &group, &mut report);
        let Err(error) = shared else { continue };
        if let [alone] = group.as_slice() {
            report.outcomes[*alone] = Err(error);
            continue;
        }
        for index in group {
            if let Err(error) = run(images, &[index], &mut report) {
                report.outcomes[index] = Err(error);
            }
        }
    }
    report
}

/// Indices of the images that have an evaluation left, by key, in the order in which the keys first occur; the others get their error.
fn groups(images: &[&mut ImageState]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let key = image.batch_key();
        // A finished image goes by itself, so that its error reaches nobody else.
        let place = groups.iter_mut().find(|group| {
            let first = &images[group[0]];
            !image.is_finished() && !first.is_finished() && first.batch_key() == key
        });
        match place {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

/// One call for the images at `group`, all of one key, and each one's update. An error means that no image was changed.
fn run(images: &mut [&mut ImageState], group: &[usize], report: &mut StepReport) -> Result<(), PipelineError> {
    let mut inputs = Vec::with_capacity(group.len());
    for &index in group {
        let image = &images[index];
        if image.is_finished() {
            let (done, total) = image.progress();
            return Err(PipelineError::OutOfOrder { done, total, asked: "a further evaluation" });
        }
        let evaluation = image.course.sampler.evaluation(&image.course.schedule, image.sampler_state.at);
        inputs.push(((&image.latents * f64::from(evaluation.input_scale))?, evaluation.timestep));
    }
    let rows: Vec<Row<'_>> = group
        .iter()
        .zip(&inputs)
        .flat_map(|(&index, (latents, timestep))| {
            let (course, concat) = (&images[index].course, images[index].concat.as_ref());
            course.conditionings.iter().map(move |conditioning| Row {
                latents,
                timestep: *timestep,
                conditioning,
                adapters: &course.adapters,
                concat,
            })
        })
        .collect();
    let Some(&first) = group.first() else { return Ok(()) };
    let model = images[first].model().clone();
    report.denoiser_calls += 1;
    report.rows += rows.len();
    let output = model.denoiser().forward(&rows, model.exec())?;
    drop(rows);
    let mut row = 0;
    for &index in group {
        let image = &mut *images[index];
        let branches = (row..row + image.rows()).map(|row| output.get(row)).collect::<Result<Vec<_>, _>>();
        row += image.rows();
        report.outcomes[index] = branches.map_err(PipelineError::from).and_then(|branches| advance(image, &branches));
    }
    Ok(())
}

/// Guidance, the sampler's update, and the check that the result is still an image.
fn advance(image: &mut ImageState, branches: &[Tensor]) -> Result<(), PipelineError> {
    let course = &image.course;
    let output = match branches {
        [negative, positive] => course.guidance.combine(negative, positive)?,
        [positive] => positive.clone(),
        _ => return Err(candle_core::Error::msg("guidance asked for a number of predictions that nothing combines").into()),
    };
    let state = &image.sampler_state;
    let Update { next, keep, draws_noise } = course.sampler.update(&course.schedule, state.first, state.at);
    let mut noise_stream = state.noise.clone();
    let noise = match draws_noise {
        true => Some(noise_stream.draw(image.latents.dims())?.to_device(image.latents.device())?),
        false => None,
    };
    let apply = |combination: &Combination| apply(combination, &image.latents, &output, &state.history, noise.as_ref());
    let latents = blended(image, apply(&next)?)?;
    let history = keep.iter().map(apply).collect::<Result<Vec<_>, _>>()?;
    if !is_finite(&latents)? {
        let (done, evaluations) = image.progress();
        return Err(PipelineError::NotFinite { evaluation: done + 1, evaluations });
    }
    // Nothing can fail from here on: an image is changed as a whole or not at all.
    image.latents = latents;
    image.sampler_state.history = history;
    image.sampler_state.noise = noise_stream;
    image.sampler_state.at += 1;
    Ok(())
}

/// The updated latents with what lies outside of a mask put back, at the noise level of the next evaluation, or clean after the last.
fn blended(image: &ImageState, latents: Tensor) -> candle_core::Result<Tensor> {
    let Some(blend) = &image.blend else { return Ok(latents) };
    let (schedule, next) = (&image.course.schedule, image.sampler_state.at + 1);
    let level = match next < image.course.end {
        true => image.course.sampler.noised(schedule, next),
        false => NoiseMix { signal: 1.0, noise: 0.0 },
    };
    blend.blended(&latents, level)
}

fn apply(
    combination: &Combination,
    sample: &Tensor,
    output: &Tensor,
    history: &[Tensor],
    noise: Option<&Tensor>,
) -> candle_core::Result<Tensor> {
    let mut terms = vec![(combination.sample, sample), (combination.output, output)];
    terms.extend(combination.history.iter().copied().zip(history));
    terms.extend(noise.map(|noise| (combination.noise, noise)));
    let terms: Vec<Term<'_>> = terms.into_iter().map(|(factor, tensor)| Term { factor: f64::from(factor), tensor }).collect();
    combine(&terms)
}

pub(super) fn is_finite(latents: &Tensor) -> candle_core::Result<bool> {
    Ok(latents.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}
