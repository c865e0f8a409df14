//! CPU operations of the engine, fused and parallel, behind a small safe interface.
//!
//! Every operation is a candle `CustomOp` on contiguous f32 tensors; it knows nothing of models or requests. The mathematics, and a composed
//! form that serves as each one's oracle, live in `diffusion::ops`.
//!
//! All of them keep one promise: **the bits of a batch row do not depend on the other rows, on its place among them, or on the number of
//! threads.** Work is split by row, output channel and position, never along a sum, and no choice of algorithm looks at the batch size.
//!
//! This crate holds the project's only `unsafe`: calls into `gemm`, and writes of disjoint tiles from several threads.

pub mod linear;

mod input;
mod matrix;

pub use linear::Linear;
