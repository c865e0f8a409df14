//! The samplers against diffusers' schedulers (`samplers/make_reference.py`): timesteps, sigmas, scales, and the way of a number
//! through a fake model.

use std::path::Path;

use diffusion::json::{Config, parse};
use diffusion::sampler::{Combination, MAX_HISTORY, SAMPLER_NAMES, Sampler, SamplerError, Schedule, ScheduleRequest, Update, from_config};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Of an image of 64 tokens, which none of these samplers asks about.
fn of_steps(steps: usize) -> ScheduleRequest {
    ScheduleRequest { steps, image_tokens: 64, even_sigmas: false }
}

/// What only samplers of flow matching are told.
#[derive(Clone, Copy, Deserialize)]
struct Asked {
    image_tokens: usize,
    even_sigmas: bool,
}

#[derive(Deserialize)]
struct Case {
    class: String,
    config: Value,
    eta: f64,
    #[serde(default)]
    asked: Option<Asked>,
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
    ways: Vec<(usize, usize, Thinned)>,
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

/// Latents after each evaluation from `first` on, and the draws made.
fn way(sampler: &dyn Sampler, schedule: &Schedule, first: usize) -> (Vec<f64>, usize) {
    let mut sample = 0.7 * f64::from(schedule.init_noise_sigma);
    let mut draws = 0;
    let mut history: Vec<f64> = Vec::new();
    let mut passed = Vec::new();
    for at in first..schedule.num_evaluations() {
        let evaluation = sampler.evaluation(schedule, at);
        let output = output_of(sample * f64::from(evaluation.input_scale), f64::from(evaluation.timestep));
        let update = sampler.update(schedule, first, at);
        let noise = if update.draws_noise { draw(draws) } else { 0.0 };
        draws += usize::from(update.draws_noise);
        let combined = |combination: &Combination| {
            assert!(update.draws_noise || combination.noise == 0.0);
            let kept = combination.history.iter().zip(&history).map(|(factor, value)| f64::from(*factor) * value);
            f64::from(combination.sample) * sample
                + f64::from(combination.output) * output
                + f64::from(combination.noise) * noise
                + kept.sum::<f64>()
        };
        let (next, keep) = (combined(&update.next), update.keep.iter().map(combined).collect::<Vec<_>>());
        assert!(keep.len() <= MAX_HISTORY);
        (sample, history) = (next, keep);
        passed.push(sample);
    }
    (passed, draws)
}

fn config(value: Value) -> Config {
    Config::from_value(value, "scheduler_config.json").unwrap()
}

#[test]
fn schedules_and_updates_equal_those_of_the_reference() {
    assert_equal_to_the_reference("reference.json");
}

/// `samplers/make_flow_reference.py`.
#[test]
fn schedules_and_updates_of_flow_matching_equal_those_of_the_reference() {
    assert_equal_to_the_reference("flow_reference.json");
}

fn assert_equal_to_the_reference(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samplers").join(name);
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let options = Map::from_iter([("eta".to_owned(), json!(case.eta))]);
        let sampler = from_config(&config(case.config.clone()), Some(&case.class), &options).unwrap();
        assert_eq!(sampler.name(), case.class);
        // Rescaled tables come of differences of nearly equal f32 numbers, whose last digits are the machine's own.
        let is_rescaled = case.config["rescale_betas_zero_snr"] == json!(true);
        // This class of the reference takes squares of sigmas away from each other in f32, and the logarithms of what is left give its
        // timesteps: few digits are left, and where a step spans nearly the whole noise hardly any.
        let subtracts_squares = case.class == "KDPM2AncestralDiscreteScheduler";
        let tolerance = if is_rescaled { 1e-5 } else { 1e-6 };
        // And this option takes nearly equal numbers from each other in f32.
        let is_stretched = !case.config["shift_terminal"].is_null();
        for run in case.runs {
            let (sigma_tolerance, way_tolerance, timestep_slack) = match run.steps {
                ..4 if subtracts_squares => (2e-2, 1e-3, 2e-2),
                _ if subtracts_squares => (1e-4, 1e-5, 1e-4),
                _ if is_stretched => (1e-5, 3e-6, 1e-4),
                _ => (tolerance, 3e-6, 0.0),
            };
            let what = format!("{} {} {} steps", case.class, case.config, run.steps);
            let asked =
                case.asked.map(|Asked { image_tokens, even_sigmas }| ScheduleRequest { steps: run.steps, image_tokens, even_sigmas });
            let schedule = sampler.schedule(asked.unwrap_or(of_steps(run.steps))).unwrap();
            run.timesteps.assert_close(&widened(&schedule.timesteps), 1e-6, timestep_slack, &format!("{what} timesteps"));
            if run.sigmas.0 > 0 {
                run.sigmas.assert_close(&widened(&schedule.sigmas), sigma_tolerance, 0.0, &format!("{what} sigmas"));
            }
            let initial = f64::from(schedule.init_noise_sigma);
            assert!((initial - run.init_noise_sigma).abs() <= 1e-6 * initial, "{what}: {initial}");
            let at = 0..schedule.num_evaluations();
            let scales: Vec<f64> = at.map(|at| f64::from(sampler.evaluation(&schedule, at).input_scale)).collect();
            if run.scales.0 > 0 {
                run.scales.assert_close(&scales, sigma_tolerance, 0.0, &format!("{what} scales"));
            } else {
                assert!(scales.iter().all(|scale| *scale == 1.0), "{what} scales");
            }
            for (at, signal, noise) in run.mixes {
                let mix = sampler.noised(&schedule, at);
                assert!((f64::from(mix.signal) - signal).abs() < tolerance, "{what}: {mix:?} for {signal}");
                // The tables of ᾱ are f32 in either: 1 − ᾱ loses digits where little noise is left.
                assert!((f64::from(mix.noise) - noise).abs() <= 3.0 * tolerance * noise, "{what}: {mix:?} for {noise}");
            }
            for (first, drawn, expected) in run.ways {
                let (passed, draws) = way(sampler.as_ref(), &schedule, first);
                assert_eq!(draws, drawn, "{what} from {first}: draws");
                // The reference rounds each intermediate value to f32 with the Euler classes, from the first and largest one on.
                let slack = way_tolerance * expected.largest() + 2.0 * f64::from(f32::EPSILON) * initial;
                expected.assert_close(&passed, 0.0, slack, &format!("{what} way from {first}"));
            }
        }
    }
}

#[test]
fn names_that_are_not_served_are_answered_with_those_that_are() {
    let message = from_config(&config(json!({"_class_name": "FlowScheduler"})), None, &Map::new()).unwrap_err().to_string();
    assert!(message.contains("FlowScheduler"), "{message}");
    assert!(SAMPLER_NAMES.iter().all(|name| message.contains(name)), "{message}");
    assert!(matches!(from_config(&config(json!({})), None, &Map::new()), Err(SamplerError::NoSampler)));
}

#[test]
fn classes_that_serve_no_latent_model_are_refused_with_the_reason() {
    for name in ["KarrasVeScheduler", "ScoreSdeVeScheduler"] {
        let message = from_config(&config(json!({})), Some(name), &Map::new()).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("pixel models"), "{message}");
    }
}

#[test]
fn keys_of_other_schedulers_are_ignored_in_the_file_and_refused_in_a_request() {
    let text = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "solver_order": 2, "skip_prk_steps": true,
                   "use_karras_sigmas": null, "beta_schedule": "scaled_linear", "clip_sample": false}"#;
    let config = Config::from_value(parse(text).unwrap(), "scheduler_config.json").unwrap();
    for name in SAMPLER_NAMES {
        assert!(from_config(&config, Some(name), &Map::new()).is_ok(), "{name}");
        let options = Map::from_iter([("unheard_of".to_owned(), json!(2))]);
        let message = from_config(&config, Some(name), &options).unwrap_err().to_string();
        assert!(message.contains("unheard_of") && message.contains(name), "{message}");
    }
}

#[test]
fn options_of_a_request_override_the_file() {
    let base = config(json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}));
    let options = Map::from_iter([("timestep_spacing".to_owned(), json!("trailing"))]);
    let plain = from_config(&base, None, &Map::new()).unwrap().schedule(of_steps(10)).unwrap();
    let changed = from_config(&base, None, &options).unwrap().schedule(of_steps(10)).unwrap();
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
        ("EulerDiscreteScheduler", "sigma_min", json!(0.0)),
        ("EulerDiscreteScheduler", "timestep_spacing", json!("random")),
        ("EulerAncestralDiscreteScheduler", "prediction_type", json!("sample")),
        ("DPMSolverMultistepScheduler", "thresholding", json!(true)),
        ("DPMSolverMultistepScheduler", "algorithm_type", json!("euler")),
        ("UniPCMultistepScheduler", "solver_order", json!(9)),
        ("FlowMatchEulerDiscreteScheduler", "shift", json!(0.0)),
        ("FlowMatchEulerDiscreteScheduler", "shift", json!("NaN")),
        ("FlowMatchEulerDiscreteScheduler", "shift_terminal", json!(1.0)),
        ("FlowMatchEulerDiscreteScheduler", "invert_sigmas", json!(true)),
        ("FlowMatchHeunDiscreteScheduler", "num_train_timesteps", json!(1_000_000_000)),
    ] {
        let options = Map::from_iter([(key.to_owned(), value)]);
        let made = from_config(&config(json!({"clip_sample": false})), Some(class), &options);
        let message = made.map(|sampler| sampler.name()).expect_err(key).to_string();
        assert!(message.contains(key), "{class} {key}: {message}");
    }
}

#[test]
fn impossible_schedules_are_errors_and_possible_ones_are_finite() {
    let make = |class: &str, value: Value| from_config(&config(value), Some(class), &Map::new()).unwrap();
    for class in SAMPLER_NAMES {
        for spacing in ["leading", "trailing", "linspace"] {
            for offset in [-1, 0, 1, 3] {
                let asked = json!({"timestep_spacing": spacing, "steps_offset": offset, "clip_sample": false});
                // Not every class has every spacing.
                let Ok(sampler) = from_config(&config(asked), Some(class), &Map::new()) else { continue };
                assert!(matches!(sampler.schedule(of_steps(0)), Err(SamplerError::Steps { .. })));
                assert!(matches!(sampler.schedule(of_steps(1001)), Err(SamplerError::Steps { .. })));
                for steps in (1..=60).chain([333, 500, 999, 1000]) {
                    let Ok(schedule) = sampler.schedule(of_steps(steps)) else { continue };
                    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
                    assert!(finite(&schedule.timesteps) && finite(&schedule.sigmas), "{class} {spacing} {offset} {steps}");
                    for at in 0..schedule.num_evaluations() {
                        let Update { next, keep, .. } = sampler.update(&schedule, 0, at);
                        for Combination { sample, output, history, noise } in keep.into_iter().chain([next]) {
                            let factors = [&[sample, output, noise][..], &history].concat();
                            assert!(finite(&factors), "{class} {spacing} {offset} {steps} {at}: {factors:?}");
                        }
                    }
                }
            }
        }
    }
    let zero_snr = json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "clip_sample": false});
    let refused = make("DDIMScheduler", zero_snr).schedule(of_steps(10));
    assert!(matches!(refused, Err(SamplerError::Contradiction { .. })), "{refused:?}");
}

#[test]
fn schedules_of_flow_matching_that_mean_nothing_are_refused() {
    let make = |options: Value| {
        let name = Some("FlowMatchEulerDiscreteScheduler");
        from_config(&config(json!({})), name, options.as_object().unwrap()).unwrap()
    };
    let asked = |steps, image_tokens| ScheduleRequest { steps, image_tokens, even_sigmas: true };
    // One step cannot be stretched; a linear shift can be negative, and stretching can lead below 0.
    for (options, asked) in [
        (json!({"shift_terminal": 0.1}), asked(1, 1024)),
        (json!({"use_dynamic_shifting": true, "time_shift_type": "linear", "base_shift": -5.0}), asked(5, 16)),
        (json!({"use_dynamic_shifting": true, "base_shift": -100.0, "max_shift": 100.0}), asked(5, 1_000_000_000)),
    ] {
        let refused = make(options.clone()).schedule(asked);
        match refused {
            Err(SamplerError::Contradiction { .. }) => {}
            Ok(schedule) => assert!(schedule.sigmas.iter().all(|sigma| (0.0..=1.0).contains(sigma)), "{options}"),
            Err(error) => panic!("{options}: {error}"),
        }
    }
    assert!(make(json!({"shift_terminal": 0.1})).schedule(asked(1, 1024)).is_err());
    let heun = from_config(&config(json!({})), Some("FlowMatchHeunDiscreteScheduler"), &Map::new()).unwrap();
    let message = heun.schedule(asked(5, 64)).unwrap_err().to_string();
    assert!(message.contains("FlowMatchEulerDiscreteScheduler"), "{message}");
}

#[test]
fn samplers_of_one_kind_of_model_are_refused_by_the_other() {
    use diffusion::sampler::{check_kind, is_flow};
    for name in SAMPLER_NAMES {
        assert!(check_kind(name, is_flow(name)).is_ok());
        let message = check_kind(name, !is_flow(name)).unwrap_err().to_string();
        let other = if is_flow(name) { "EulerDiscreteScheduler" } else { "FlowMatchEulerDiscreteScheduler" };
        assert!(message.contains(name) && message.contains(other), "{message}");
    }
}
