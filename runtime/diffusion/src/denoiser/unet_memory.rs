//! What one call of the UNet takes of memory: the walk of [`super::UNet`] with sizes in place of tensors.

use super::unet_config::{LevelConfig, MidBlock, UNetConfig};
use crate::memory::{TAPS, Working};

/// Tensors of a level's size that are alive in a transformer's feed-forward layer at most: its input, the tokens before and after each attention,
/// the widened ones and what becomes of them.
const TRANSFORMER_TENSORS: (u64, u64) = (19, 24);
/// The same in its attention, beside scores.
const ATTENTION_TENSORS: (u64, u64) = (10, 10);

/// The walk's state.
struct Walk {
    working: Working,
    rows: u64,
    /// Bytes of what waits for the way up, the current tensor included.
    skips: Vec<u64>,
    peak: u64,
}

impl Walk {
    /// Something takes `bytes` beside what waits.
    fn takes(&mut self, bytes: u64) {
        let waiting: u64 = self.skips.iter().sum();
        self.peak = self.peak.max(waiting.saturating_add(bytes));
    }

    fn transformer(&self, positions: u64, level: &LevelConfig) -> u64 {
        let elements = self.rows * positions * level.channels as u64;
        let (fused, composed) = TRANSFORMER_TENSORS;
        let feed_forward = self.working.tensors(elements, fused, composed);
        let (fused, composed) = ATTENTION_TENSORS;
        let scores = self.working.scores(self.rows * level.heads as u64, positions, positions);
        let attention = self.working.tensors(elements, fused, composed) + self.working.heads(elements) + scores;
        feed_forward.max(attention)
    }
}

impl UNetConfig {
    /// Bytes beside the weights of one call over `rows` with latents of `[height, width]`.
    pub(crate) fn call_bytes(&self, rows: usize, latent: [usize; 2], working: Working) -> u64 {
        let rows = rows as u64;
        let mut sizes = vec![latent];
        for _ in 1..self.levels.len() {
            let [height, width] = *sizes.last().unwrap_or(&latent);
            sizes.push([height.div_ceil(2), width.div_ceil(2)]);
        }
        let positions: Vec<u64> = sizes.iter().map(|[height, width]| (height * width) as u64).collect();
        let channels: Vec<u64> = self.levels.iter().map(|level| level.channels as u64).collect();
        let size = |at: usize, channels: u64| working.tensor(rows * positions[at] * channels);
        let mut walk = Walk { working, rows, skips: vec![size(0, channels[0])], peak: 0 };
        for (at, level) in self.levels.iter().enumerate() {
            let pixels = rows * positions[at];
            let before = channels[at.saturating_sub(1)];
            for layer in 0..level.layers {
                let inputs = if layer == 0 { before } else { channels[at] };
                walk.takes(working.resnet(pixels, inputs, channels[at]));
                if level.down_attention {
                    walk.takes(size(at, channels[at]) + walk.transformer(positions[at], level));
                }
                walk.skips.push(size(at, channels[at]));
            }
            if at + 1 < self.levels.len() {
                walk.takes(working.convolution(rows * positions[at + 1], channels[at], channels[at], TAPS));
                walk.skips.push(size(at + 1, channels[at]));
            }
        }
        self.middle(&mut walk, &positions, &channels);
        for at in (0..self.levels.len()).rev() {
            self.up(at, &mut walk, &positions, &channels);
        }
        walk.peak
    }

    fn middle(&self, walk: &mut Walk, positions: &[u64], channels: &[u64]) {
        let (Some(level), Some(positions), Some(channels)) = (self.levels.last(), positions.last(), channels.last()) else { return };
        let elements = walk.rows * positions * channels;
        if self.mid_block != MidBlock::Absent {
            walk.takes(walk.working.tensor(elements) + walk.working.resnet(walk.rows * positions, *channels, *channels));
        }
        if self.mid_block == MidBlock::CrossAttention {
            walk.takes(walk.working.tensor(elements) + walk.transformer(*positions, level));
        }
    }

    fn up(&self, at: usize, walk: &mut Walk, positions: &[u64], channels: &[u64]) {
        let (level, working, rows) = (&self.levels[at], walk.working, walk.rows);
        let coming = *channels.get(at + 1).unwrap_or(&channels[at]);
        let finer = channels[at.saturating_sub(1)];
        let pixels = rows * positions[at];
        for layer in 0..=level.layers {
            let skip = if layer == level.layers { finer } else { channels[at] };
            let before = if layer == 0 { coming } else { channels[at] };
            walk.skips.pop();
            // Both once more where they are joined.
            let inputs = 2 * working.tensor(pixels * (before + skip));
            walk.takes(inputs + working.resnet(pixels, before + skip, channels[at]));
            if level.up_attention {
                walk.takes(inputs + working.tensor(pixels * channels[at]) + walk.transformer(positions[at], level));
            }
        }
        if at > 0 {
            let small = working.tensor(pixels * channels[at]);
            walk.takes(small + working.upsample(rows * positions[at - 1], channels[at]));
        } else {
            walk.takes(working.resnet(pixels, channels[0], channels[0]));
        }
    }
}
