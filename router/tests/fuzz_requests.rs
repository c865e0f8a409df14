//! Any bytes, at any path that takes a call: the parser refuses or translates, within bounds, and never panics. Runs under `cargo test`
//! for a moment, from bodies that real clients send; under a fuzzing engine for as long as it is let.

use std::time::Duration;

use bolero::check;
use router::dialect::modelslab::{self, FetchFields, GENERATION_PATHS};
use router::dialect::{fields, not_supported, openai};
use router::generation::Submission;
use router::refusal::Refusal;

/// How long one run takes: the tests of this project are many.
const RUN_FOR: Duration = Duration::from_secs(3);

/// Bodies of real clients, and their edges.
const SEEDS: [&str; 17] = [
    r#"{"key":"k","model_id":"demo","prompt":"a red circle on a blue background","negative_prompt":"blurry","width":64,"height":64,"samples":1,"num_inference_steps":20,"guidance_scale":5}"#,
    r#"{"key":"k","model_id":"m","prompt":"((x)), (y:1.2)","negative_prompt":null,"width":"512","height":"512","samples":"1","num_inference_steps":"31","safety_checker":"no","enhance_prompt":"yes","seed":null,"guidance_scale":7.5,"multi_lingual":"no","panorama":"no","self_attention":"no","upscale":"no","embeddings_model":null,"lora_model":null,"tomesd":"yes","clip_skip":"2","use_karras_sigmas":"yes","vae":null,"lora_strength":null,"scheduler":"EulerDiscreteScheduler","webhook":null,"track_id":null}"#,
    r#"{"key":"k","request_id":"12202888"}"#,
    r#"{"model":"demo","prompt":"a cat","n":2,"size":"64x64","response_format":"b64_json","stream":true,"partial_images":3,"seed":0}"#,
    r#"{"prompt":"a","size":"auto","background":"transparent"}"#,
    r#"{"prompt":"a","scheduler":"DPM++ 2M Karras","algorithm_type":"sde-dpmsolver++"}"#,
    r#"{"prompt":"a","seed":18446744073709551615,"width":-1,"height":1e308,"clip_skip":99999999999}"#,
    r#"{"prompt":"a","init_image":["https://example.org/a.png"],"webhook":"https://example.org"}"#,
    r#"{"prompt":"a <lora:ink:0.8>","init_image":["data:image/png;base64,iVBORw0KGgo="],"mask_image":"https://a.example/m.png","strength":"0.7","lora_model":"a,b","lora_strength":"0.45,0.55","embeddings_model":"e"}"#,
    r#"{"prompt":"","image":"iVBORw0KGgo=","width":512,"height":512,"overlap_width":64,"num_inference_steps":20,"guidance_scale":7.5}"#,
    r#"{"prompt":"a","image":"iVBORw0KGgo=","mask":"data:,","strength":2,"lora_strength":1e999}"#,
    "prompt=a+cat&samples=1&seed=%2D1",
    r#"{"a":{"b":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}"#,
    r#"{"prompt":"a","prompt":"b"}"#,
    "{\"prompt\":\"\u{feff}\u{202e}\\ud83d\"}",
    "[]",
    "",
];

fn check_refusal(refusal: &Refusal, sent: usize) {
    for answer in [modelslab::refuse(refusal), openai::refuse(refusal)] {
        assert!(answer.status.is_client_error(), "{refusal:?}");
        // Little of what was sent comes back: nobody makes us send much.
        assert!(answer.body.to_string().len() < 6 * sent.min(1000) + 4000, "{refusal:?}");
    }
}

fn check_submission(submission: &Submission, sent: usize) {
    let request = &submission.request;
    assert!(request.prompt.len() <= sent * 3 && request.model.len() <= sent * 3);
    assert!(request.guidance_scale.is_none_or(f64::is_finite));
    assert!(request.sampler.as_ref().is_none_or(|sampler| sampler.ends_with("Scheduler")));
    assert!(request.sampler_options.len() <= 2 && submission.partial_images <= 3);
    assert!(submission.track_id.as_ref().is_none_or(|track_id| track_id.len() <= 256));
    let written = serde_json::to_string(request).expect("what is accepted can be journalled");
    let read: runtime_api::ImageRequest = serde_json::from_str(&written).expect("and read again");
    assert_eq!((&read.prompt, read.seed, &read.sampler_options), (&request.prompt, request.seed, &request.sampler_options));
}

/// The first bytes choose where the body goes and how much of the rest is a query.
fn call(input: &[u8]) {
    let [choice, query_length, rest @ ..] = input else { return };
    let (query, body) = rest.split_at((*query_length as usize).min(rest.len()));
    let fields = match fields::read(std::str::from_utf8(query).ok(), body) {
        Ok(fields) => fields,
        Err(refusal) => return check_refusal(&refusal, rest.len()),
    };
    let submission = match choice % 8 {
        0..=4 => {
            let (_, task, family) = GENERATION_PATHS[usize::from(*choice) % GENERATION_PATHS.len()];
            modelslab::parse(fields.into(), task, family).map(|parsed| parsed.submission)
        }
        5 => openai::parse(fields.into()).map(|parsed| parsed.submission),
        6 => openai::parse_edit(fields.into()).map(|parsed| parsed.submission),
        _ => match fields::typed::<FetchFields>(fields).and_then(|fetch| modelslab::parse_fetch_id(fetch.request_id.as_deref())) {
            Ok(id) => return assert!(id > 0),
            Err(refusal) => Err(refusal),
        },
    };
    match submission {
        Ok(submission) => check_submission(&submission, rest.len()),
        Err(refusal) => check_refusal(&refusal, rest.len()),
    }
}

#[test]
fn any_bytes_are_refused_or_translated_within_bounds() {
    check!().with_max_len(4096).with_test_time(RUN_FOR).for_each(call);
}

/// Random bytes rarely are JSON: here real bodies lose, double and change a few bytes.
#[test]
fn damaged_bodies_of_real_clients_are_refused_or_translated_within_bounds() {
    for choice in 0..168 {
        for seed in SEEDS {
            call(&[&[choice, 0], seed.as_bytes()].concat());
            let query_length = u8::try_from(seed.len()).unwrap_or(u8::MAX);
            call(&[&[choice, query_length], seed.as_bytes(), seed.as_bytes()].concat());
        }
    }
    check!().with_type::<(u8, u8, Vec<(u16, u8, u8)>)>().with_test_time(RUN_FOR).for_each(|(choice, seed, damages)| {
        let mut body = SEEDS[usize::from(*seed) % SEEDS.len()].as_bytes().to_vec();
        for (place, kind, byte) in damages {
            if body.is_empty() {
                break;
            }
            let place = usize::from(*place) % body.len();
            match kind % 3 {
                0 => body[place] = *byte,
                1 => body.insert(place, *byte),
                _ => drop(body.remove(place)),
            }
        }
        call(&[&[*choice, 0], body.as_slice()].concat());
    });
}

#[test]
fn any_path_is_known_or_not_without_a_panic() {
    check!().with_type::<String>().with_test_time(RUN_FOR).for_each(|path| {
        let _ = not_supported::endpoint_refusal(path);
        let _ = modelslab::parse_fetch_id(Some(path));
    });
}
