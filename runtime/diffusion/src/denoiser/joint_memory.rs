//! What one call of a network of joint attention takes of memory.

use super::{FluxConfig, MmditConfig};
use crate::layers::JointAttentionShape;
use crate::memory::Working;

/// Text tokens at most: CLIP's and T5's.
const TEXT_TOKENS: u64 = 77 + 512;
/// Tensors of all tokens that are alive in a block at most: text and image before it, with their norms, queries, keys and values apart, joined and
/// turned; or the widened ones and what becomes of them.
const JOINT_TENSORS: (u64, u64) = (15, 18);
/// The same in a block where text and image are one; Flux has both kinds.
const SINGLE_TENSORS: (u64, u64) = (16, 19);

fn block_bytes(shape: JointAttentionShape, tensors: (u64, u64), rows: u64, positions: u64, working: Working) -> u64 {
    let tokens = positions + TEXT_TOKENS;
    let elements = rows * tokens * shape.features() as u64;
    let scores = working.scores(rows * shape.heads as u64, tokens, tokens);
    working.tensors(elements, tensors.0, tensors.1) + working.heads(elements) + scores
}

impl MmditConfig {
    /// Bytes beside the weights of one call over `rows` with latents of `[height, width]`.
    pub(crate) fn call_bytes(&self, rows: usize, [height, width]: [usize; 2], working: Working) -> u64 {
        let patches = height.div_ceil(self.patch_side) * width.div_ceil(self.patch_side);
        block_bytes(self.attention(), JOINT_TENSORS, rows as u64, patches as u64, working)
    }
}

impl FluxConfig {
    /// Bytes beside the weights of one call over `rows` with latents of `[height, width]`.
    pub(crate) fn call_bytes(&self, rows: usize, [height, width]: [usize; 2], working: Working) -> u64 {
        let patches = height.div_ceil(2) * width.div_ceil(2);
        block_bytes(self.attention(), SINGLE_TENSORS, rows as u64, patches as u64, working)
    }
}
