//! What the autoencoder takes of memory for one picture: the walk of its decoder with sizes in place of tensors. The encoder takes less.

use super::VaeConfig;
use super::tiling::MAX_WHOLE_SIDE_PIXELS;
use crate::memory::{F32_BYTES, Working};

/// A picture in tiles lies there in rows of tiles and joined; a whole one as it comes, and as it is judged and clamped.
const PICTURES: u64 = 3;
/// Tensors of the coarsest level that are alive in its attention at most, beside scores.
const ATTENTION_TENSORS: (u64, u64) = (7, 7);

impl VaeConfig {
    /// Bytes beside the weights for a picture with latents of `[height, width]`.
    pub(crate) fn picture_bytes(&self, latent: [usize; 2], working: Working) -> u64 {
        let scale = self.scale();
        let pixels = latent.iter().map(|side| (side * scale) as u64).product::<u64>();
        let whole = latent.iter().all(|side| side * scale <= MAX_WHOLE_SIDE_PIXELS);
        let tile = if whole { latent } else { latent.map(|side| side.min(self.tile_side / scale)) };
        let pictures = PICTURES * F32_BYTES * self.image_channels as u64 * pixels;
        self.whole_bytes(tile, working).saturating_add(pictures)
    }

    fn whole_bytes(&self, [height, width]: [usize; 2], working: Working) -> u64 {
        let mut positions = (height * width) as u64;
        let coarsest = self.channels[self.channels.len() - 1] as u64;
        let elements = positions * coarsest;
        let mut peak = working.tensor(elements) + working.resnet(positions, coarsest, coarsest);
        if self.mid_attention {
            let (fused, composed) = ATTENTION_TENSORS;
            let tensors = working.tensors(elements, fused, composed);
            peak = peak.max(tensors + working.heads(elements) + working.scores(1, positions, positions));
        }
        let mut before = coarsest;
        for (at, channels) in self.channels.iter().rev().enumerate() {
            let channels = *channels as u64;
            for inputs in [before, channels] {
                peak = peak.max(working.tensor(positions * inputs) + working.resnet(positions, inputs, channels));
            }
            if at + 1 < self.channels.len() {
                let small = working.tensor(positions * channels);
                positions *= 4;
                peak = peak.max(small + working.upsample(positions, channels));
            }
            before = channels;
        }
        peak
    }
}
