//! The samplers against diffusers' schedulers (`samplers/make_reference.py`): timesteps, sigmas, scales, and the way of a number
//! through a fake model.

use std::path::Path;

use diffusion::json::{Config, parse};
use diffusion::sampler::{Combination, SAMPLER_NAMES, Sampler, SamplerError, Schedule, from_config};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Case {
    class: String,
    config: Value,
    eta: f64,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    steps: usize,
    timesteps: Thinned,
    sigmas: Thinned,
    init_noise_sigma: f64,
    scales: Thinned,
    mixes: Vec<(usize, f64, f64)>,
    draws: usize,
    way: Thinned,
}

/// Length, stride, and every stride-th value from the end.
#[derive(Deserialize)]
struct Thinned(usize, usize, Vec<f64>);

impl Thinned {
    /// Each value within `tolerance` of its own size; a passing through zero has the `slack` for that.
    fn assert_close(&self, values: &[f64], tolerance: f64, slack: f64, what: &str) {
        assert_eq!(values.len(), self.0, "{what}: length");
        for (at, (expected, found)) in self.2.iter().zip(values.iter().rev().step_by(self.1)).enumerate() {
            let allowed = tolerance * expected.abs() + slack;
            assert!((expected - found).abs() <= allowed, "{what}: {at} from the end: {found} for {expected}");
        }
    }

    fn largest(&self) -> f64 {
        self.2.iter().fold(0.0, |largest, value| value.abs().max(largest))
    }
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The reference script's model of one number.
fn output_of(sample: f64, timestep: f64) -> f64 {
    0.5 * sample / (1.0 + sample.abs()) + 0.3 * (timestep / 100.0).cos()
}

fn draw(number: usize) -> f64 {
    (1.0 + 2.0 * number as f64).sin()
}

/// Latents after each evaluation, and the draws made.
fn way(sampler: &dyn Sampler, schedule: &Schedule) -> (Vec<f64>, usize) {
    let mut sample = 0.7 * f64::from(schedule.init_noise_sigma);
    let mut draws = 0;
    let mut passed = Vec::new();
    for at in 0..schedule.num_evaluations() {
        let evaluation = sampler.evaluation(schedule, at);
        let output = output_of(sample * f64::from(evaluation.input_scale), f64::from(evaluation.timestep));
        let update = sampler.update(schedule, 0, at);
        let Combination { sample: of_sample, output: of_output, noise: of_noise, .. } = update.next;
        assert!(update.draws_noise || of_noise == 0.0);
        let noise = if update.draws_noise { draw(draws) } else { 0.0 };
        draws += usize::from(update.draws_noise);
        sample = f64::from(of_sample) * sample + f64::from(of_output) * output + f64::from(of_noise) * noise;
        passed.push(sample);
    }
    (passed, draws)
}

fn config(value: Value) -> Config {
    Config::from_value(value, "scheduler_config.json").unwrap()
}

#[test]
fn schedules_and_updates_equal_those_of_the_reference() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samplers/reference.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let options = Map::from_iter([("eta".to_owned(), json!(case.eta))]);
        let sampler = from_config(&config(case.config.clone()), Some(&case.class), &options).unwrap();
        assert_eq!(sampler.name(), case.class);
        for run in case.runs {
            let what = format!("{} {} {} steps", case.class, case.config, run.steps);
            let schedule = sampler.schedule(run.steps).unwrap();
            run.timesteps.assert_close(&widened(&schedule.timesteps), 1e-6, 0.0, &format!("{what} timesteps"));
            if run.sigmas.0 > 0 {
                run.sigmas.assert_close(&widened(&schedule.sigmas), 1e-6, 0.0, &format!("{what} sigmas"));
            }
            let initial = f64::from(schedule.init_noise_sigma);
            assert!((initial - run.init_noise_sigma).abs() <= 1e-6 * initial, "{what}: {initial}");
            let at = 0..schedule.num_evaluations();
            let scales: Vec<f64> = at.map(|at| f64::from(sampler.evaluation(&schedule, at).input_scale)).collect();
            run.scales.assert_close(&scales, 1e-6, 0.0, &format!("{what} scales"));
            for (at, signal, noise) in run.mixes {
                let mix = sampler.noised(&schedule, at);
                assert!((f64::from(mix.signal) - signal).abs() < 1e-6, "{what}: {mix:?} for {signal}");
                assert!((f64::from(mix.noise) - noise).abs() <= 1e-6 * noise, "{what}: {mix:?} for {noise}");
            }
            let (passed, draws) = way(sampler.as_ref(), &schedule);
            assert_eq!(draws, run.draws, "{what} draws");
            // The reference rounds each intermediate value to f32 with the Euler classes, from the first and largest one on.
            let slack = 3e-6 * run.way.largest() + 2.0 * f64::from(f32::EPSILON) * initial;
            run.way.assert_close(&passed, 0.0, slack, &format!("{what} way"));
        }
    }
}

#[test]
fn names_that_are_not_served_are_answered_with_those_that_are() {
    let message = from_config(&config(json!({"_class_name": "PNDMScheduler"})), None, &Map::new()).unwrap_err().to_string();
    assert!(message.contains("PNDMScheduler"), "{message}");
    assert!(SAMPLER_NAMES.iter().all(|name| message.contains(name)), "{message}");
    assert!(matches!(from_config(&config(json!({})), None, &Map::new()), Err(SamplerError::NoSampler)));
}

#[test]
fn keys_of_other_schedulers_are_ignored_in_the_file_and_refused_in_a_request() {
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "solver_order": 2, "skip_prk_steps": true,
                   "use_karras_sigmas": null, "beta_schedule": "scaled_linear", "clip_sample": false}"#;
    let config = Config::from_value(parse(text).unwrap(), "scheduler_config.json").unwrap();
    for name in SAMPLER_NAMES {
        assert!(from_config(&config, Some(name), &Map::new()).is_ok(), "{name}");
        let options = Map::from_iter([("solver_order".to_owned(), json!(2))]);
        let message = from_config(&config, Some(name), &options).unwrap_err().to_string();
        assert!(message.contains("solver_order") && message.contains(name), "{message}");
    }
}

#[test]
fn options_of_a_request_override_the_file() {
    let base = config(json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}));
    let options = Map::from_iter([("timestep_spacing".to_owned(), json!("trailing"))]);
    let plain = from_config(&base, None, &Map::new()).unwrap().schedule(10).unwrap();
    let changed = from_config(&base, None, &options).unwrap().schedule(10).unwrap();
    assert_eq!((plain.timesteps[0], changed.timesteps[0]), (900.0, 999.0));
}

#[test]
fn known_keys_with_unserved_values_are_refused_by_name() {
    for (class, key, value) in [
        ("DDIMScheduler", "clip_sample", json!(true)),
        ("DDIMScheduler", "thresholding", json!(true)),
        ("DDIMScheduler", "eta", json!(1.5)),
        ("DDIMScheduler", "prediction_type", json!("flow")),
        ("DDIMScheduler", "beta_schedule", json!("sigmoid")),
        ("DDIMScheduler", "beta_end", json!(2.0)),
        ("DDIMScheduler", "beta_start", json!("NaN")),
        ("DDIMScheduler", "num_train_timesteps", json!(1_000_000_000)),
        ("DDIMScheduler", "trained_betas", json!([0.1, 0.2])),
        ("DDIMScheduler", "steps_offset", json!(-5000)),
        ("EulerDiscreteScheduler", "use_beta_sigmas", json!(true)),
        ("EulerDiscreteScheduler", "sigma_min", json!(0.0)),
        ("EulerDiscreteScheduler", "timestep_spacing", json!("random")),
        ("EulerAncestralDiscreteScheduler", "prediction_type", json!("sample")),
    ] {
        let options = Map::from_iter([(key.to_owned(), value)]);
        let message = from_config(&config(json!({"clip_sample": false})), Some(class), &options).unwrap_err().to_string();
        assert!(message.contains(key), "{class} {key}: {message}");
    }
}

#[test]
fn impossible_schedules_are_errors_and_possible_ones_are_finite() {
    let make = |class: &str, value: Value| from_config(&config(value), Some(class), &Map::new()).unwrap();
    for class in SAMPLER_NAMES {
        for spacing in ["leading", "trailing", "linspace"] {
            for offset in [-1, 0, 1, 3] {
                let sampler = make(class, json!({"timestep_spacing": spacing, "steps_offset": offset, "clip_sample": false}));
                assert!(matches!(sampler.schedule(0), Err(SamplerError::Steps { .. })));
                assert!(matches!(sampler.schedule(1001), Err(SamplerError::Steps { .. })));
                for steps in (1..=60).chain([333, 500, 999, 1000]) {
                    let Ok(schedule) = sampler.schedule(steps) else { continue };
                    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
                    assert!(finite(&schedule.timesteps) && finite(&schedule.sigmas), "{class} {spacing} {offset} {steps}");
                    for at in 0..schedule.num_evaluations() {
                        let next = sampler.update(&schedule, 0, at).next;
                        assert!(finite(&[next.sample, next.output, next.noise]), "{class} {spacing} {offset} {steps} {at}");
                    }
                }
            }
        }
    }
    let zero_snr = json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "clip_sample": false});
    let refused = make("DDIMScheduler", zero_snr).schedule(10);
    assert!(matches!(refused, Err(SamplerError::Contradiction { .. })), "{refused:?}");
}
