//! One evaluation of many images, for commands that have the engine to themselves.

use anyhow::{Context, anyhow};

use crate::engine::{CallLimits, Candidate, Engine};

/// Rows of one call. More would not be faster on any device, and take more memory.
const MAX_ROWS: usize = 16;

/// Advances every image by one evaluation, in as few calls as their shapes allow.
///
/// # Errors
/// The first error of any image.
pub(super) fn step_all<E: Engine>(engine: &E, images: &mut [E::Image]) -> anyhow::Result<()> {
    let candidates: Vec<_> = images.iter().map(|image| Candidate { image, passed_over: 0 }).collect();
    for group in engine.groups(&candidates, CallLimits { rows: MAX_ROWS, bytes: u64::MAX }) {
        let in_group = images.iter_mut().enumerate().filter(|(index, _)| group.contains(index));
        let mut borrowed: Vec<&mut E::Image> = in_group.map(|(_, image)| image).collect();
        let stepped = engine.step(&mut borrowed);
        if stepped.outcomes.len() != borrowed.len() {
            return Err(anyhow!("the engine told {} outcomes for {} images", stepped.outcomes.len(), borrowed.len()));
        }
        stepped.outcomes.into_iter().collect::<Result<Vec<()>, _>>().context("make an image")?;
    }
    Ok(())
}
