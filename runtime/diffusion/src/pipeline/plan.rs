//! Which waiting images share a call. Pure: it sees keys and numbers, no tensors and no clock.

use crate::denoiser::BatchKey;

/// An image that waits for its next evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// [`super::ImageState::batch_key`].
    pub key: BatchKey,
    /// [`super::ImageState::rows`].
    pub rows: usize,
    /// Bytes beside the weights that each of its rows takes in a call.
    pub row_bytes: u64,
    /// Calls that were run since this image's last one: whoever was passed over most goes first.
    pub passed_over: u64,
}

/// How large one call may be. A single image always fits, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Rows of one call.
    pub max_rows: usize,
    /// Latent positions of all rows of one call together: bounds the time of one step.
    pub max_latent_pixels: usize,
    /// Bytes beside the weights of one call.
    pub max_bytes: u64,
}

/// Groups images into calls: each call is a list of indices into `waiting`, which is ordered oldest first.
///
/// Calls come in the order in which they should run. Each starts with the image that was passed over most (the oldest among equals) and
/// takes every further image of the same key, in the same order, that still fits. An image that does not fit neither blocks
/// nor is blocked by those of other keys. Every image is in exactly one call.
pub fn plan(waiting: &[Waiting], limits: PlanLimits) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..waiting.len()).collect();
    // Stable: among equals the oldest stays first.
    order.sort_by_key(|&index| std::cmp::Reverse(waiting[index].passed_over));
    let mut calls = Vec::new();
    while let Some(&first) = order.first() {
        let key = waiting[first].key;
        let mut rows = 0_usize;
        let mut call = Vec::new();
        order.retain(|&index| {
            let image = waiting[index];
            let total = rows.saturating_add(image.rows);
            let bytes = image.row_bytes.saturating_mul(total as u64);
            let latent_pixels = total.saturating_mul(key.latent_pixels());
            let fits = total <= limits.max_rows && latent_pixels <= limits.max_latent_pixels && bytes <= limits.max_bytes;
            let taken = image.key == key && (fits || call.is_empty());
            if taken {
                rows = total;
                call.push(index);
            }
            !taken
        });
        calls.push(call);
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: PlanLimits = PlanLimits { max_rows: 4, max_latent_pixels: 1000, max_bytes: 1000 };

    fn image(model: u64, side: usize, rows: usize, passed_over: u64) -> Waiting {
        Waiting {
            key: BatchKey { model, latent_shape: [4, side, side], concat_channels: 0, joint_tokens: 0 },
            rows,
            row_bytes: 1,
            passed_over,
        }
    }

    #[test]
    fn images_of_one_key_share_calls_up_to_the_limit() {
        let waiting = [image(1, 8, 2, 0), image(1, 8, 2, 0), image(1, 8, 1, 0)];
        assert_eq!(plan(&waiting, LIMITS), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn misfit_at_the_head_does_not_block_others() {
        let waiting = [image(1, 8, 2, 0), image(2, 8, 2, 0), image(1, 8, 2, 0), image(2, 8, 2, 0)];
        assert_eq!(plan(&waiting, LIMITS), [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn call_takes_no_more_memory_than_there_is() {
        let waiting = [image(1, 8, 2, 0), image(1, 8, 2, 0)].map(|image| Waiting { row_bytes: 251, ..image });
        assert_eq!(plan(&waiting, LIMITS), [vec![0], vec![1]]);
        assert_eq!(plan(&waiting, PlanLimits { max_bytes: 1004, ..LIMITS }), [vec![0, 1]]);
    }

    #[test]
    fn image_passed_over_most_goes_first() {
        let waiting = [image(1, 8, 2, 0), image(2, 8, 2, 3), image(1, 8, 2, 1)];
        assert_eq!(plan(&waiting, LIMITS), [vec![1], vec![2, 0]]);
    }

    #[test]
    fn image_larger_than_the_limits_still_runs_alone() {
        let waiting = [image(1, 80, 2, 0), image(1, 80, 2, 0)];
        assert_eq!(plan(&waiting, LIMITS), [vec![0], vec![1]]);
    }

    proptest! {
        #[test]
        fn every_image_is_in_exactly_one_call_of_its_key(
            images in prop::collection::vec((0_u64..3, 1_usize..20, 1_usize..4, 0_u64..4), 0..20)
        ) {
            let waiting: Vec<Waiting> = images.into_iter().map(|(model, side, rows, passed)| image(model, side, rows, passed)).collect();
            let calls = plan(&waiting, LIMITS);
            let mut seen: Vec<usize> = calls.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..waiting.len()).collect::<Vec<_>>());
            for call in calls {
                let rows: usize = call.iter().map(|&index| waiting[index].rows).sum();
                let key = waiting[call[0]].key;
                prop_assert!(call.iter().all(|&index| waiting[index].key == key));
                prop_assert!(call.len() == 1 || (rows <= LIMITS.max_rows && rows * key.latent_pixels() <= LIMITS.max_latent_pixels));
            }
        }
    }
}
