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

fn composed(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, Scores { scaled, bias }: Scores<'_>) -> Result<Tensor> {
    let (batch, tokens, features) = query.dims3()?;
    let by_head = |x: &Tensor| {
        let (batch, tokens, features) = x.dims3()?;
        x.reshape((batch, tokens, heads, features / heads))?.transpose(1, 2)?.contiguous()
    };
    let (query, key, value) = (by_head(query)?, by_head(key)?, by_head(value)?);
    let query = if scaled { (query / ((features / heads) as f64).sqrt())? } else { query };
    let scores = query.matmul(&key.transpose(D::Minus1, D::Minus2)?)?.to_dtype(DType::F32)?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let exponents = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = exponents.broadcast_div(&exponents.sum_keepdim(D::Minus1)?)?.to_dtype(value.dtype())?;
    weights.matmul(&value)?.transpose(1, 2)?.reshape((batch, tokens, features))
}
