use candle_core::{D, DType, Result, Tensor};

use super::Form;

/// Scaled dot-product attention (Vaswani et al. 2017) with the heads side by side in the features, as linear layers make them:
/// query [B, T, heads·d], key and value [B, S, heads·d] → [B, T, heads·d]. The scale is d^-½; the softmax is taken in f32.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(query) {
        return fused(query, key, value, kernels::Attention { heads, causal: false });
    }
    composed(query, key, value, heads, Scores::SCALED)
}

/// The same with each position seeing itself and what came before it (T = S), as in text encoders.
///
/// # Errors
/// When the shapes do not fit.
pub fn causal_attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, form: Form) -> Result<Tensor> {
    if form.takes_cpu_kernel(query) {
        return fused(query, key, value, kernels::Attention { heads, causal: true });
    }
    let tokens = query.dim(1)?;
    let mask = (0..tokens).flat_map(|t| (0..tokens).map(move |s| if s > t { f32::NEG_INFINITY } else { 0.0 }));
    let mask = Tensor::from_iter(mask, query.device())?.reshape((1, 1, tokens, tokens))?;
    composed(query, key, value, heads, Scores { bias: Some(&mask), ..Scores::SCALED })
}

/// The same with `bias` [heads, T, S] f32 added to scores that are not scaled: how T5 attends.
///
/// # Errors
/// When the shapes do not fit.
pub fn biased_attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, bias: &Tensor) -> Result<Tensor> {
    composed(query, key, value, heads, Scores { scaled: false, bias: Some(&bias.unsqueeze(0)?) })
}

/// What becomes of the products of queries and keys before the softmax.
#[derive(Clone, Copy)]
struct Scores<'a> {
    /// Times d^-½.
    scaled: bool,
    /// Added, broadcast to [B, heads, T, S].
    bias: Option<&'a Tensor>,
}

impl Scores<'_> {
    const SCALED: Self = Self { scaled: true, bias: None };
}

fn fused(query: &Tensor, key: &Tensor, value: &Tensor, attention: kernels::Attention) -> Result<Tensor> {
    query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, attention)
}

/// Elements of the scores that exist at once, over all rows and heads: 256 MB, and three times that while they become weights. All of those of a
/// 1024×1024 image would be 36 times as many.
pub(crate) const MAX_SCORES: usize = 1 << 26;

fn composed(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, scores: Scores<'_>) -> Result<Tensor> {
    in_blocks(query, key, value, heads, scores, MAX_SCORES)
}

/// Blocks of queries, one after another. Scores are f32 from the start: those of some models are beyond f16, and bf16 would round them by more
/// than a percent.
fn in_blocks(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    Scores { scaled, bias }: Scores<'_>,
    max_scores: usize,
) -> Result<Tensor> {
    let (batch, tokens, features) = query.dims3()?;
    let by_head = |x: &Tensor| {
        let (batch, tokens, features) = x.dims3()?;
        x.reshape((batch, tokens, heads, features / heads))?.transpose(1, 2)?.contiguous()
    };
    let (query, key, value) = (by_head(query)?.to_dtype(DType::F32)?, by_head(key)?.to_dtype(DType::F32)?, by_head(value)?);
    let query = if scaled { (query / ((features / heads) as f64).sqrt())? } else { query };
    let key = key.transpose(D::Minus1, D::Minus2)?;
    let queries_of_block = (max_scores / (batch * heads * value.dim(2)?).max(1)).max(1);
    let block = |first: usize| {
        let count = queries_of_block.min(tokens - first);
        let scores = query.narrow(2, first, count)?.contiguous()?.matmul(&key)?;
        let scores = match bias {
            Some(bias) => scores.broadcast_add(&bias.narrow(2, first, count)?)?,
            None => scores,
        };
        let exponents = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = exponents.broadcast_div(&exponents.sum_keepdim(D::Minus1)?)?.to_dtype(value.dtype())?;
        weights.matmul(&value)
    };
    let blocks = (0..tokens).step_by(queries_of_block).map(block).collect::<Result<Vec<_>>>()?;
    let mixed = if let [whole] = blocks.as_slice() { whole.clone() } else { Tensor::cat(&blocks, 2)? };
    mixed.transpose(1, 2)?.reshape((batch, tokens, features))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::sampler::gaussian;

    fn random(draw: u32, shape: &[usize]) -> Tensor {
        Tensor::from_vec(gaussian(5, 0, draw, shape.iter().product()), shape, &Device::Cpu).unwrap()
    }

    fn largest(difference: &Tensor) -> f32 {
        difference.to_dtype(DType::F32).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn blocks_of_queries_make_the_whole_attention() {
        let (query, key, value) = (random(0, &[2, 7, 12]), random(1, &[2, 5, 12]), random(2, &[2, 5, 12]));
        let bias = random(3, &[1, 3, 7, 5]);
        for bias in [None, Some(&bias)] {
            let of_blocks = |max_scores| in_blocks(&query, &key, &value, 3, Scores { scaled: true, bias }, max_scores).unwrap();
            let whole = of_blocks(usize::MAX);
            // One query, three with a rest of one, six and one.
            for queries in [0, 3, 6] {
                assert!(largest(&(of_blocks(2 * 3 * 5 * queries) - &whole).unwrap()) < 1e-6);
            }
        }
    }

    #[test]
    fn scores_beyond_half_precision_are_no_obstacle() {
        // Scores of up to 240²·16 / 4, four times what f16 holds: each query takes the value of the one key that is like it.
        let signs: Vec<f32> = (0..4 * 16).map(|at| if (at / 16) >> (at % 16 % 2) & 1 == 1 { 240.0 } else { -240.0 }).collect();
        let x = Tensor::from_vec(signs, (1, 4, 16), &Device::Cpu).unwrap();
        let value = random(0, &[1, 4, 16]).to_dtype(DType::F16).unwrap();
        for dtype in [DType::F16, DType::BF16] {
            let (x, value) = (x.to_dtype(dtype).unwrap(), value.to_dtype(dtype).unwrap());
            let mixed = attention(&x, &x, &value, 1, Form::Composed).unwrap();
            assert!(largest(&(mixed - value).unwrap()) < 1e-3, "{dtype:?}");
        }
    }
}
