//! CPU operations of the engine, fused and parallel, behind a small safe interface; and the door to GPUs ([`gpu`]), which run candle's own.
//!
//! Every CPU operation is a candle `CustomOp` on contiguous f32 tensors; it knows nothing of models or requests. The mathematics, and a composed
//! form that serves as each one's oracle, live in `diffusion::ops`.
//!
//! All of them keep one promise: **the bits of a batch row do not depend on the other rows, on its place among them, or on the number of
//! threads.** Work is split by row, output channel and position, never along a sum, and no choice of algorithm looks at the batch size.
//!
//! This crate holds the project's only `unsafe` besides the mapping of weights: calls into `gemm`, into functions compiled for the vector
//! units that were detected, and into NVIDIA's libraries.

mod activation;
mod attention;
mod conv2d;
pub mod gpu;
mod group_norm;
mod input;
mod layer_norm;
mod linear;
mod matrix;
mod rms_norm;
mod rotary;
mod vector;

pub use activation::{Geglu, Gelu, QuickGelu, Silu, TanhGelu};
pub use attention::Attention;
pub use conv2d::Conv2d;
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use rms_norm::RmsNorm;
pub use rotary::Rotary;
