//! Attention without materialised permutes or score matrices of the whole image: blocks of queries, one head after another, read
//! the heads where the linear layers left them.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::input;
use crate::matrix::{Destination, Strides, multiply};
use crate::vector::{exp, sum, vectorised};

/// Scores that one block keeps at once: 1 MB, to stay in the second-level cache.
const BLOCK_SCORES: usize = 1 << 18;
/// Queries of one block, at most and at least. The split looks at one row's shape alone.
const BLOCK_QUERIES: (usize, usize) = (16, 128);

/// query [B, T, heads·d], key and value [B, S, heads·d], f32 → [B, T, heads·d].
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The features are a multiple of it.
    pub heads: usize,
    /// Whether position t sees only the keys up to t.
    pub causal: bool,
}

/// One row's sizes.
#[derive(Clone, Copy)]
struct Sizes {
    keys: usize,
    features: usize,
    heads: usize,
    causal: bool,
}

vectorised! {
    /// Softmax of one row of scores, in place.
    fn softmax(scores: &mut [f32]) {
        let mut lanes = [f32::NEG_INFINITY; 16];
        for chunk in scores.chunks(16) {
            for (lane, score) in lanes.iter_mut().zip(chunk) {
                *lane = if *score > *lane { *score } else { *lane };
            }
        }
        let largest = lanes.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        for score in scores.iter_mut() {
            *score = exp(*score - largest);
        }
        let inverse = 1.0 / sum(scores);
        for score in scores.iter_mut() {
            *score *= inverse;
        }
    }
}

/// Queries from position `first` on, all heads; `out` has the shape of `query`.
fn block(query: &[f32], key: &[f32], value: &[f32], first: usize, sizes: Sizes, out: &mut [f32]) {
    let Sizes { keys, features, heads, causal } = sizes;
    let (queries, size) = (query.len() / features, features / heads);
    let strides = Strides::row_major(features);
    let mut scores = vec![0.0; queries * keys];
    for head in 0..heads {
        let at = head * size;
        multiply(
            (queries, keys, size),
            &mut scores,
            Strides::row_major(keys),
            Destination::Overwrite,
            &query[at..],
            strides,
            &key[at..],
            Strides::transposed(features),
            1.0 / (size as f32).sqrt(),
            Parallelism::None,
        );
        for (i, scores) in scores.chunks_mut(keys).enumerate() {
            let seen = if causal { (first + i + 1).min(keys) } else { keys };
            softmax(&mut scores[..seen]);
            scores[seen..].fill(0.0);
        }
        multiply(
            (queries, size, keys),
            &mut out[at..],
            strides,
            Destination::Overwrite,
            &scores,
            Strides::row_major(keys),
            &value[at..],
            strides,
            1.0,
            Parallelism::None,
        );
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let query = input::slice(query, query_layout, "attention")?;
        let (key, value) = (input::slice(key, key_layout, "attention")?, input::slice(value, value_layout, "attention")?);
        let (batch, queries, features) = query_layout.shape().dims3()?;
        let (key_batch, keys, key_features) = key_layout.shape().dims3()?;
        let fits = self.heads > 0 && features % self.heads == 0 && (key_batch, key_features) == (batch, features);
        if !fits || key_layout.dims() != value_layout.dims() {
            let (query, key, value) = (query_layout.dims(), key_layout.dims(), value_layout.dims());
            bail!("attention: query {query:?}, key {key:?}, value {value:?} and {} heads do not fit", self.heads);
        }
        let mut out = vec![0.0; query.len()];
        if out.is_empty() || key.is_empty() {
            return Ok((CpuStorage::F32(out), query_layout.shape().clone()));
        }
        let sizes = Sizes { keys, features, heads: self.heads, causal: self.causal };
        // At least two blocks for a row, so that a lone image uses more than one thread.
        let (low, high) = BLOCK_QUERIES;
        let per_block = (BLOCK_SCORES / keys).min(queries.div_ceil(2)).clamp(low, high);
        let rows = out.par_chunks_mut(queries * features).zip(query.par_chunks(queries * features));
        let rows = rows.zip(key.par_chunks(keys * features).zip(value.par_chunks(keys * features)));
        rows.for_each(|((out, query), (key, value))| {
            let blocks = out.par_chunks_mut(per_block * features).zip(query.par_chunks(per_block * features)).enumerate();
            blocks.for_each(|(index, (out, query))| block(query, key, value, index * per_block, sizes, out));
        });
        Ok((CpuStorage::F32(out), query_layout.shape().clone()))
    }
}
