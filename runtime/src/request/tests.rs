use std::sync::Arc;

use diffusion::picture::{GrayImage, RgbImage};

use super::*;

const LIMITS: Limits = Limits { max_pixels: 512 * 512, max_samples: 4, max_steps: 100 };

fn defaults() -> Defaults {
    let strength = Strengths { image: 0.3, inpaint: 0.6 };
    Defaults { width: 64, height: 128, num_inference_steps: 20, guidance_scale: 5.0, strength }
}

fn asked(change: impl FnOnce(&mut ImageRequest)) -> Result<Request, InvalidRequest> {
    let mut request = ImageRequest::text_to_image("demo", "a red circle");
    change(&mut request);
    complete(&request, None, &defaults(), &LIMITS, 99)
}

#[test]
fn missing_values_are_the_models() {
    let made = asked(|_| ()).unwrap();
    assert_eq!((made.width, made.height, made.num_inference_steps, made.samples), (64, 128, 20, 1));
    assert_eq!((made.guidance_scale, made.seed, made.sampler), (5.0, 99, None));
}

#[test]
fn given_values_win() {
    let made = asked(|request| {
        request.width = Some(256);
        request.seed = Some(0);
        request.num_inference_steps = Some(3);
        request.guidance_scale = Some(0.0);
    });
    let made = made.unwrap();
    assert_eq!((made.width, made.seed, made.num_inference_steps, made.guidance_scale), (256, 0, 3, 0.0));
}

#[test]
fn sides_that_are_no_multiples_of_eight_are_refused() {
    for pixels in [0, 7, 60, 65, u32::MAX] {
        let refused = asked(|request| request.width = Some(pixels));
        assert_eq!(refused, Err(InvalidRequest::Side { field: "width", pixels }));
    }
}

#[test]
fn area_is_bounded_without_overflow() {
    let refused = asked(|request| (request.width, request.height) = (Some(1 << 31), Some(1 << 31)));
    assert!(matches!(refused, Err(InvalidRequest::Pixels { .. })));
    assert!(asked(|request| (request.width, request.height) = (Some(512), Some(512))).is_ok());
    assert!(asked(|request| (request.width, request.height) = (Some(520), Some(512))).is_err());
}

#[test]
fn counts_are_bounded_on_both_sides() {
    for samples in [0, 5] {
        assert!(matches!(asked(|request| request.samples = samples), Err(InvalidRequest::Samples { .. })));
    }
    for steps in [0, 101] {
        assert!(matches!(asked(|request| request.num_inference_steps = Some(steps)), Err(InvalidRequest::Steps { .. })));
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    for value in [-0.1, 1000.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(asked(|request| request.guidance_scale = Some(value)), Err(InvalidRequest::Range { .. })));
    }
    assert_eq!(asked(|request| request.output_quality = Some(101)), Err(InvalidRequest::Quality { quality: 101 }));
    assert!(asked(|request| request.output_quality = Some(0)).is_ok());
    assert!(asked(|request| request.guidance_rescale = Some(1.1)).is_err());
    assert!(asked(|request| request.eta = Some(-1.0)).is_err());
}

#[test]
fn prompts_beyond_their_bound_are_refused() {
    let long = "x".repeat(MAX_PROMPT_BYTES + 1);
    assert_eq!(asked(|request| request.prompt = long.clone()), Err(InvalidRequest::Prompt { field: "prompt" }));
    assert_eq!(asked(|request| request.negative_prompt = Some(long)), Err(InvalidRequest::Prompt { field: "negative_prompt" }));
}

#[test]
fn prompts_are_read_in_the_syntax_that_is_asked_for() {
    assert_eq!(asked(|_| ()).unwrap().prompt_syntax, PromptSyntax::Plain);
    let made = asked(|request| request.prompt_syntax = runtime_api::PromptSyntax::Weighted).unwrap();
    assert_eq!(made.prompt_syntax, PromptSyntax::Weighted);
}

#[test]
fn embeddings_are_bounded() {
    assert!(asked(|request| request.embeddings = vec!["x".to_owned(); MAX_EMBEDDINGS]).is_ok());
    let refused = asked(|request| request.embeddings = vec!["x".to_owned(); MAX_EMBEDDINGS + 1]);
    assert_eq!(refused, Err(InvalidRequest::Embeddings { count: MAX_EMBEDDINGS + 1 }));
}

#[test]
fn number_and_strength_of_adapters_are_bounded() {
    let with = |count: usize, scale: f64| {
        let adapter = runtime_api::AdapterUse { model: "x".to_owned(), scale };
        asked(|request| request.adapters = vec![adapter; count])
    };
    assert!(with(MAX_ADAPTERS, -1.0).is_ok());
    assert_eq!(with(MAX_ADAPTERS + 1, 1.0), Err(InvalidRequest::Adapters { count: MAX_ADAPTERS + 1 }));
    for scale in [10.1, -10.1, f64::NAN] {
        assert!(matches!(with(1, scale), Err(InvalidRequest::Range { .. })), "{scale}");
    }
}

#[test]
fn fields_that_a_task_does_not_use_are_refused() {
    for task in [Task::TextToImage, Task::ImageToImage, Task::Inpaint, Task::Outpaint] {
        let margins = Margins { left: 8, ..Margins::default() };
        let base = ImageRequest { task, margins: (task == Task::Outpaint).then_some(margins), ..ImageRequest::text_to_image("", "") };
        assert_eq!(check(&base, &LIMITS), Ok(()));
        let with = |change: fn(&mut ImageRequest)| {
            let mut request = base.clone();
            change(&mut request);
            check(&request, &LIMITS)
        };
        let used = [
            with(|request| request.image = Some(String::new())),
            with(|request| request.mask_image = Some(String::new())),
            with(|request| request.mask_blur = Some(1)),
            with(|request| request.strength = Some(0.5)),
            with(|request| request.margins = Some(Margins { top: 8, ..Margins::default() })),
        ]
        .map(|checked| checked.is_ok());
        let expected = match task {
            Task::ImageToImage => [true, false, false, true, false],
            Task::Inpaint => [true, true, true, true, false],
            Task::Outpaint => [true, false, true, true, true],
            _ => [false; 5],
        };
        assert_eq!(used, expected, "{task:?}");
    }
}

#[test]
fn numbers_of_image_tasks_are_bounded() {
    let image = |change: fn(&mut ImageRequest)| {
        let mut request = ImageRequest { task: Task::Inpaint, ..ImageRequest::text_to_image("", "") };
        change(&mut request);
        check(&request, &LIMITS)
    };
    for strength in [0.0, -1.0, 2.0, f64::NAN] {
        let mut request = ImageRequest { task: Task::ImageToImage, ..ImageRequest::text_to_image("", "") };
        request.strength = Some(strength);
        assert!(matches!(check(&request, &LIMITS), Err(InvalidRequest::Strength { .. })), "{strength}");
    }
    assert_eq!(image(|request| request.mask_blur = Some(MAX_MASK_BLUR)), Ok(()));
    assert!(image(|request| request.mask_blur = Some(MAX_MASK_BLUR + 1)).is_err());
    let outpaint = ImageRequest { task: Task::Outpaint, ..ImageRequest::text_to_image("", "") };
    assert_eq!(check(&outpaint, &LIMITS), Err(InvalidRequest::Missing { field: "margins", task: Task::Outpaint }));
    assert!(check(&ImageRequest { margins: Some(Margins::default()), ..outpaint }, &LIMITS).is_err());
}

#[test]
fn inputs_are_those_the_task_needs() {
    let mut request = ImageRequest { task: Task::Inpaint, image: Some("a".to_owned()), ..ImageRequest::text_to_image("", "") };
    assert_eq!(inputs(&request), Err(InvalidRequest::Missing { field: "mask_image", task: Task::Inpaint }));
    request.mask_image = Some("b".to_owned());
    assert_eq!(inputs(&request).unwrap(), [("image", "a"), ("mask", "b")]);
    assert!(inputs(&ImageRequest::text_to_image("", "")).unwrap().is_empty());
}

#[test]
fn image_task_without_its_canvas_is_refused() {
    let request = ImageRequest { task: Task::ImageToImage, ..ImageRequest::text_to_image("", "") };
    let refused = complete(&request, None, &defaults(), &LIMITS, 0);
    assert_eq!(refused, Err(InvalidRequest::Missing { field: "image", task: Task::ImageToImage }));
}

#[test]
fn pictures_are_left_behind_as_far_as_the_request_or_the_model_says() {
    let picture = || Arc::new(RgbImage { width: 8, height: 8, data: vec![7; 192] });
    let mask = Arc::new(GrayImage { width: 8, height: 8, data: vec![255; 64] });
    let image = Start::Image { image: picture(), strength: 1.0 };
    let inpaint = Start::Inpaint { image: picture(), mask, strength: 1.0 };
    for (task, start, asked, expected) in [
        (Task::ImageToImage, &image, None, 0.3),
        (Task::Inpaint, &inpaint, None, 0.6),
        (Task::Outpaint, &inpaint, None, 1.0),
        (Task::ImageToImage, &image, Some(1.0), 1.0),
        (Task::Inpaint, &inpaint, Some(1.0), 1.0),
    ] {
        let margins = (task == Task::Outpaint).then_some(Margins { left: 8, ..Margins::default() });
        let request = ImageRequest { task, margins, strength: asked, ..ImageRequest::text_to_image("", "") };
        let canvas = Canvas { width: 8, height: 8, start: start.clone() };
        let made = complete(&request, Some(&canvas), &defaults(), &LIMITS, 0).unwrap();
        let (Start::Image { strength, .. } | Start::Inpaint { strength, .. }) = made.start else { panic!("{:?}", made.start) };
        assert_eq!(strength, expected, "{task:?} {asked:?}");
    }
}

#[test]
fn what_a_request_does_not_say_is_not_judged_at_the_door() {
    let small = Limits { max_pixels: 64, max_samples: 1, max_steps: 1 };
    assert_eq!(check(&ImageRequest::text_to_image("demo", ""), &small), Ok(()));
}
