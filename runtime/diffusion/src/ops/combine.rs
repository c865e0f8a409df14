use candle_core::{Result, Tensor};

/// One summand of a linear combination.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// The factor, dimensionless.
    pub factor: f64,
    /// The tensor it is applied to, f32.
    pub tensor: &'a Tensor,
}

/// `Σ factor · tensor`, all of one shape, summed in the order given; terms with factor 0 are left out, so that what they hold
/// (infinities, say) does not matter.
///
/// Every sampler's update is such a sum over sample, model output, history and noise.
///
/// # Errors
/// When there is no term at all, or the shapes differ.
pub fn combine(terms: &[Term<'_>]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for term in terms.iter().filter(|term| term.factor != 0.0) {
        let scaled = if term.factor == 1.0 { term.tensor.clone() } else { (term.tensor * term.factor)? };
        sum = Some(match sum {
            Some(sum) => (sum + scaled)?,
            None => scaled,
        });
    }
    match (sum, terms.first()) {
        (Some(sum), _) => Ok(sum),
        (None, Some(term)) => term.tensor.zeros_like(),
        (None, None) => candle_core::bail!("a combination needs at least one term"),
    }
}
