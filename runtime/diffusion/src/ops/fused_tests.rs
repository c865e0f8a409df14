//! Every fused form against its composed one on random shapes, and row bits against the batch.

use candle_core::{Device, Result, Tensor};
use proptest::prelude::*;

use super::{
    Activation, Form, Padding, Rotation, activate, attention, causal_attention, conv2d, geglu, group_norm, layer_norm, linear,
    modulated_layer_norm, rms_norm, rotary,
};
use crate::sampler::gaussian;

/// Largest difference relative to the largest value: sums are taken in another order.
const TOLERANCE: f32 = 2e-6;

fn random(seed: u64, draw: u32, shape: &[usize]) -> Tensor {
    Tensor::from_vec(gaussian(seed, 0, draw, shape.iter().product()), shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(operation: impl Fn(Form) -> Result<Tensor>) {
    assert_within(TOLERANCE, operation);
}

fn assert_within(tolerance: f32, operation: impl Fn(Form) -> Result<Tensor>) {
    let (fused, composed) = (operation(Form::Fused).unwrap(), operation(Form::Composed).unwrap());
    assert_eq!(fused.dims(), composed.dims());
    let largest = values(&composed).iter().fold(1.0_f32, |a, b| a.max(b.abs()));
    for (fused, composed) in values(&fused).iter().zip(values(&composed)) {
        assert!((fused - composed).abs() <= tolerance * largest, "{fused} is not {composed}");
    }
}

/// Of a norm over groups of `length` neighbours: values near each other lose digits when their mean is taken away, in either form.
fn norm_tolerance(x: &Tensor, length: usize, epsilon: f64) -> f32 {
    let condition = |group: &[f32]| {
        let of = |value: &dyn Fn(f64) -> f64| group.iter().map(|x| value(f64::from(*x))).sum::<f64>() / length as f64;
        let mean = of(&|x| x);
        of(&|x| x * x).sqrt() / (of(&|x| (x - mean).powi(2)) + epsilon).sqrt()
    };
    TOLERANCE * values(x).chunks_exact(length).map(condition).fold(1.0, f64::max) as f32
}

/// Each row of `x` alone gives the bits it has among the others.
fn assert_rows_stand_alone(x: &Tensor, operation: impl Fn(&Tensor, usize) -> Result<Tensor>, together: &Tensor) {
    for row in 0..x.dim(0).unwrap() {
        let alone = values(&operation(&x.narrow(0, row, 1).unwrap(), row).unwrap());
        let among: Vec<f32> = values(&together.narrow(0, row, 1).unwrap());
        assert!(alone.iter().zip(&among).all(|(a, b)| a.to_bits() == b.to_bits()), "row {row} of {:?}", x.dims());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn fused_conv2d_equals_composed(
        seed: u64, batch in 1_usize..3, (channels, outputs) in (1_usize..40, 1_usize..70), (height, width) in (2_usize..20, 2_usize..20),
        kernel in prop::sample::select(vec![1_usize, 3]), stride in 1_usize..3, even: bool,
    ) {
        let (x, weight) = (random(seed, 0, &[batch, channels, height, width]), random(seed, 1, &[outputs, channels, kernel, kernel]));
        let bias = random(seed, 2, &[outputs]);
        let padding = if even { Padding::Even(kernel / 2) } else { Padding::BelowAndRight };
        assert_close(|form| conv2d(&x, &weight, &bias, padding, stride, form));
        let together = conv2d(&x, &weight, &bias, padding, stride, Form::Fused).unwrap();
        assert_rows_stand_alone(&x, |x, _| conv2d(x, &weight, &bias, padding, stride, Form::Fused), &together);
    }

    #[test]
    fn fused_norms_equal_composed(seed: u64, batch in 1_usize..4, (groups, per_group) in (1_usize..6, 1_usize..6), side in 1_usize..30) {
        let channels = groups * per_group;
        let (weight, bias) = (random(seed, 1, &[channels]), random(seed, 2, &[channels]));
        let x = (random(seed, 0, &[batch, channels, side, side + 1]) + 3.0).unwrap();
        for then_silu in [false, true] {
            let tolerance = norm_tolerance(&x, per_group * side * (side + 1), 1e-5);
            assert_within(tolerance, |form| group_norm(&x, &weight, &bias, groups, 1e-5, then_silu, form));
        }
        let tokens = random(seed, 3, &[batch, side, channels]);
        let tolerance = norm_tolerance(&tokens, channels, 1e-5);
        assert_within(tolerance, |form| layer_norm(&tokens, &weight, &bias, 1e-5, form));
        let together = group_norm(&x, &weight, &bias, groups, 1e-5, true, Form::Fused).unwrap();
        assert_rows_stand_alone(&x, |x, _| group_norm(x, &weight, &bias, groups, 1e-5, true, Form::Fused), &together);
    }

    #[test]
    fn fused_modulation_and_root_mean_squares_equal_composed(seed: u64, batch in 1_usize..4, tokens in 1_usize..30, features in 1_usize..40) {
        let x = random(seed, 0, &[batch, tokens, features]);
        let (scale, shift) = (random(seed, 1, &[batch, features]), random(seed, 2, &[batch, features]));
        let modulated = |form| modulated_layer_norm(&x, &scale, &shift, 1e-6, form);
        assert_within(norm_tolerance(&x, features, 1e-6), modulated);
        let of_row =
            |x: &Tensor, row: usize| modulated_layer_norm(x, &scale.narrow(0, row, 1)?, &shift.narrow(0, row, 1)?, 1e-6, Form::Fused);
        assert_rows_stand_alone(&x, of_row, &modulated(Form::Fused).unwrap());
        let weight = random(seed, 3, &[features]);
        assert_close(|form| rms_norm(&x, &weight, 1e-6, form));
    }

    #[test]
    fn fused_rotation_equals_composed(seed: u64, batch in 1_usize..4, heads in 1_usize..4, (rows, columns) in (1_usize..9, 1_usize..9)) {
        let positions: Vec<[usize; 2]> = (0..rows * columns).map(|token| [token / columns, token % columns]).collect();
        let rotation = Rotation::new(&positions, [4, 6], 1e4, &Device::Cpu).unwrap();
        let x = random(seed, 0, &[batch, rows * columns, heads * 10]);
        assert_close(|form| rotary(&x, &rotation, heads, form));
    }

    #[test]
    fn fused_activations_equal_composed(seed: u64, rows in 1_usize..40, half in 1_usize..700) {
        let x = (random(seed, 0, &[rows, half * 2]) * 4.0).unwrap();
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::TanhGelu] {
            assert_close(|form| activate(&x, activation, form));
        }
        assert_close(|form| geglu(&x, form));
    }

    #[test]
    fn fused_attention_equals_composed(
        seed: u64, batch in 1_usize..3, (heads, size) in (1_usize..5, 1_usize..20), (queries, keys) in (1_usize..150, 1_usize..100),
    ) {
        let query = random(seed, 0, &[batch, queries, heads * size]);
        let (key, value) = (random(seed, 1, &[batch, keys, heads * size]), random(seed, 2, &[batch, keys, heads * size]));
        assert_close(|form| attention(&query, &key, &value, heads, form));
        let of_row = |query: &Tensor, row: usize| attention(query, &key.narrow(0, row, 1)?, &value.narrow(0, row, 1)?, heads, Form::Fused);
        assert_rows_stand_alone(&query, of_row, &attention(&query, &key, &value, heads, Form::Fused).unwrap());
        let (key, value) = (random(seed, 3, &[batch, queries, heads * size]), random(seed, 4, &[batch, queries, heads * size]));
        assert_close(|form| causal_attention(&query, &key, &value, heads, form));
    }

    #[test]
    fn linear_row_bits_do_not_depend_on_its_batch(
        seed: u64, batch in 2_usize..6, tokens in prop::sample::select(vec![1_usize, 2, 16, 64, 77, 100]),
        features in 1_usize..1400, outputs in prop::sample::select(vec![1_usize, 4, 16, 63, 64, 65, 127, 128, 129, 130, 200, 256, 320]), with_bias: bool,
    ) {
        let (x, weight) = (random(seed, 0, &[batch, tokens, features]), random(seed, 1, &[outputs, features]));
        let bias = with_bias.then(|| random(seed, 2, &[outputs]));
        assert_close(|form| linear(&(&x / (features as f64).sqrt())?, &weight, bias.as_ref(), form));
        let together = linear(&x, &weight, bias.as_ref(), Form::Fused).unwrap();
        assert_rows_stand_alone(&x, |x, _| linear(x, &weight, bias.as_ref(), Form::Fused), &together);
        // Two neighbours are other neighbours than four.
        let first_two = x.narrow(0, 0, 2).unwrap();
        let pair = linear(&first_two, &weight, bias.as_ref(), Form::Fused).unwrap();
        prop_assert!(values(&pair).iter().zip(values(&together)).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn missing_gradient_of_a_fused_form_is_an_error_and_never_silence() {
    let x = candle_core::Var::from_tensor(&random(1, 0, &[2, 8])).unwrap();
    let weight = random(1, 1, &[4, 8]);
    let fused = linear(&x, &weight, None, Form::Fused).unwrap().sum_all().unwrap();
    assert!(fused.backward().is_err());
    let composed = linear(&x, &weight, None, Form::Composed).unwrap().sum_all().unwrap();
    assert!(composed.backward().unwrap().get(&x).is_some());
}
