//! Images that are checked before they leave, with the real network and made-up weights, and files in every format.

use std::path::Path;

use runtime::picture::Pixels;
use runtime::safety::{SafetyChecker, SafetyError};
use runtime::worker::Limits;
use runtime_api::{Event, FailureReason, OutputFormat, SafetyStyle};
use safetensors::{Dtype, tensor::TensorView};

use crate::house::{House, TOKEN};
use crate::puppet::{GOOD, Gate, Puppet};

/// Weights of nothing but a bias, and a path through the network that sums what is bright: a picture is as unsafe as `logit` says, and more by
/// `brightness` for each level of a colour.
fn write_weights(path: &Path, logit: f32, brightness: f32) {
    let mut shapes = vec![("stem".to_owned(), vec![64, 3, 7, 7]), ("classifier".to_owned(), vec![2, 1024])];
    let mut channels = 64;
    for (stage, (count, inner)) in [(3, 32), (4, 64), (6, 128), (3, 256)].into_iter().enumerate() {
        for block in 0..count {
            let mut layer = |name: &str, shape: [usize; 4]| shapes.push((format!("stages.{stage}.{block}.{name}"), shape.to_vec()));
            layer("reduce", [inner, channels, 1, 1]);
            layer("look", [inner, inner, 3, 3]);
            layer("expand", [inner * 4, inner, 1, 1]);
            if block == 0 {
                layer("shortcut", [inner * 4, channels, 1, 1]);
            }
            channels = inner * 4;
        }
    }
    let zeros = vec![0; 4 * 1024 * 1024 * 4];
    let bias: Vec<u8> = [0.0, logit].into_iter().flat_map(f32::to_le_bytes).collect();
    let bytes = |shape: &[usize]| shape.iter().product::<usize>() * 4;
    // The first channel is the mean of all colours around a place, with the subtracted means put back, all the way to the end.
    let first = |shape: &[usize], values: Vec<f32>| {
        let mut data = zeros[..bytes(shape)].to_vec();
        data.iter_mut().zip(values.into_iter().flat_map(f32::to_le_bytes)).for_each(|(to, from)| *to = from);
        data
    };
    let stem = first(&[64, 3, 7, 7], vec![1.0 / 49.0; 3 * 49]);
    let stem_bias = first(&[64], vec![104.0 + 117.0 + 123.0]);
    let shortcut = first(&[1024, 512, 1, 1], vec![1.0]);
    let classifier: Vec<u8> = (0..2 * 1024).flat_map(|at| if at == 1024 { brightness } else { 0.0 }.to_le_bytes()).collect();
    let mut tensors = Vec::new();
    for (name, shape) in &shapes {
        let (weight, own) = match name.as_str() {
            "stem" => (&stem[..], &stem_bias[..]),
            "classifier" => (&classifier[..], &bias[..]),
            name if name.ends_with("shortcut") => (&shortcut[..bytes(shape)], &zeros[..bytes(&shape[..1])]),
            _ => (&zeros[..bytes(shape)], &zeros[..bytes(&shape[..1])]),
        };
        tensors.push((format!("{name}.weight"), TensorView::new(Dtype::F32, shape.clone(), weight).unwrap()));
        tensors.push((format!("{name}.bias"), TensorView::new(Dtype::F32, vec![shape[0]], own).unwrap()));
    }
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

fn checker(logit: f32, brightness: f32) -> SafetyChecker {
    let weights = tempfile::NamedTempFile::new().unwrap();
    write_weights(weights.path(), logit, brightness);
    SafetyChecker::open(weights.path()).unwrap()
}

/// A replica whose checker finds everything as unsafe as `logit` says.
async fn house(logit: f32) -> House {
    house_with(checker(logit, 0.0)).await
}

async fn house_with(checker: SafetyChecker) -> House {
    let gate = Gate::closed();
    gate.open();
    let house = House::with_safety_checker(Puppet { gate: gate.clone() }, gate, Limits::default(), Some(checker)).await;
    house.add_model("demo", GOOD);
    house
}

/// Makes an image, and tells what was found.
async fn made(house: &House, name: &str, style: Option<SafetyStyle>) -> (Pixels, Vec<bool>) {
    let mut dispatch = house.dispatch(name);
    dispatch.request.safety_checker = style;
    let found = match house.send(&dispatch).await.done().await.pop() {
        Some(Event::Done { nsfw_content_detected, .. }) => nsfw_content_detected,
        other => panic!("{other:?}"),
    };
    (house.storage.pixels(name), found)
}

#[tokio::test]
async fn unsafe_images_are_drawn_over_and_the_unchecked_are_as_ever() {
    let house = house(9.0).await;
    let (unchecked, found) = made(&house, "unchecked", None).await;
    assert_eq!(found, [false; 0]);
    assert!(unchecked.rgb.iter().any(|&value| value != unchecked.rgb[0]));
    for style in SafetyStyle::ALL {
        let (shown, found) = made(&house, style.name(), Some(style)).await;
        assert_eq!(found, [true], "{style:?}");
        assert_eq!((shown.width, shown.height), (unchecked.width, unchecked.height));
        assert_ne!(shown, unchecked, "{style:?}");
        assert_eq!(shown.rgb.iter().all(|&value| value == 0), style == SafetyStyle::Black, "{style:?}");
    }
}

#[tokio::test]
async fn safe_images_stay_as_they_are() {
    let house = house(1.0).await;
    let (unchecked, _) = made(&house, "unchecked", None).await;
    assert_eq!(made(&house, "checked", Some(SafetyStyle::Black)).await, (unchecked, vec![false]));
}

/// Of which a network says so.
fn log_odds(probability: f32) -> f32 {
    (probability / (1.0 - probability)).ln()
}

#[tokio::test]
async fn each_image_is_judged_by_what_it_shows_itself() {
    const SAMPLES: usize = 8;
    let samples = |house: &House, style: Option<SafetyStyle>| {
        let mut dispatch = house.dispatch("x");
        dispatch.request.samples = SAMPLES as u32;
        dispatch.request.safety_checker = style;
        dispatch.outputs = (0..SAMPLES).map(|sample| house.storage.target(&sample.to_string())).collect();
        dispatch
    };
    let unchecked = house(0.0).await;
    unchecked.send(&samples(&unchecked, None)).await.done().await;
    let pictures: Vec<Pixels> = (0..SAMPLES).map(|sample| unchecked.storage.pixels(&sample.to_string())).collect();
    // A bias that makes half of them unsafe.
    let eye = checker(0.0, 0.02);
    let scores: Vec<f32> = pictures.iter().map(|picture| log_odds(eye.probability(picture).unwrap())).collect();
    let mut sorted = scores.clone();
    sorted.sort_by(f32::total_cmp);
    let middle = f32::midpoint(sorted[SAMPLES / 2 - 1], sorted[SAMPLES / 2]);
    let expected: Vec<bool> = scores.iter().map(|score| *score > middle).collect();
    assert!(expected.iter().any(|is_unsafe| *is_unsafe) && expected.iter().rev().ne(&expected), "{scores:?}");
    let house = house_with(checker(log_odds(runtime::safety::THRESHOLD) - middle, 0.02)).await;
    let events = house.send(&samples(&house, Some(SafetyStyle::Black))).await.done().await;
    let Some(Event::Done { nsfw_content_detected, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(*nsfw_content_detected, expected, "{scores:?}");
    for (sample, (picture, is_unsafe)) in pictures.iter().zip(expected).enumerate() {
        let shown = house.storage.pixels(&sample.to_string());
        assert_eq!(shown.rgb.iter().all(|&value| value == 0), is_unsafe, "{sample}");
        assert_eq!(shown == *picture, !is_unsafe, "{sample}");
    }
}

#[tokio::test]
async fn each_style_draws_what_it_is_called() {
    let house = house(9.0).await;
    let mut seen = Vec::new();
    for style in SafetyStyle::ALL {
        let mut dispatch = house.dispatch(style.name());
        (dispatch.request.width, dispatch.request.height) = (Some(128), Some(64));
        dispatch.request.safety_checker = Some(style);
        house.send(&dispatch).await.done().await;
        let shown = house.storage.pixels(style.name());
        let has_words = shown.rgb.as_chunks::<3>().0.iter().filter(|pixel| **pixel == [u8::MAX; 3]).count() > 100;
        assert_eq!(has_words, style == SafetyStyle::SensitiveContentText, "{style:?}");
        assert!(!seen.contains(&shown), "{style:?} is as another one");
        seen.push(shown);
    }
}

#[tokio::test]
async fn images_that_are_drawn_over_keep_what_is_written_in_them() {
    let house = house(9.0).await;
    for (name, style) in [("shown", None), ("drawn over", Some(SafetyStyle::Black))] {
        let mut dispatch = house.dispatch(name);
        dispatch.metadata = vec![("model".to_owned(), "demo".to_owned())];
        dispatch.request.safety_checker = style;
        house.send(&dispatch).await.done().await;
    }
    let text = |name: &str| house.storage.picture(name).unwrap().1;
    assert_eq!(text("shown"), text("drawn over"));
    assert!(text("shown").len() >= 2, "{:?}", text("shown"));
}

#[test]
fn weights_that_lack_a_tensor_or_have_another_shape_are_refused_by_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_weights(file.path(), 0.0, 0.0);
    let bytes = std::fs::read(file.path()).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, shape) in [("stages.2.4.look.weight", None), ("stages.0.0.shortcut.bias", Some(vec![64, 2]))] {
        let tensors = whole.tensors().into_iter().filter(|(own, _)| shape.is_some() || own != name).map(|(own, view)| {
            let changed = shape.as_ref().filter(|_| own == name);
            let shape = changed.cloned().unwrap_or_else(|| view.shape().to_vec());
            (own, TensorView::new(Dtype::F32, shape, view.data()).unwrap())
        });
        let changed = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(changed.path(), safetensors::serialize(tensors.collect::<Vec<_>>(), None).unwrap()).unwrap();
        let SafetyError::Open { source, .. } = SafetyChecker::open(changed.path()).unwrap_err() else { panic!("opened") };
        assert!(source.to_string().contains(name), "{source}");
    }
}

#[tokio::test]
async fn previews_of_checked_images_never_leave() {
    let house = house(9.0).await;
    for (style, previews) in [(None, 2), (Some(SafetyStyle::Blur), 0)] {
        let mut dispatch = house.dispatch("x");
        dispatch.partial_images = 2;
        dispatch.request.safety_checker = style;
        dispatch.request.samples = 2;
        dispatch.outputs = ["a", "b"].map(|name| house.storage.target(&format!("{name}{previews}"))).into();
        let events = house.send(&dispatch).await.done().await;
        let told = events.iter().filter(|event| matches!(event, Event::Preview { .. })).count();
        assert_eq!(told, previews * 2, "{style:?}");
        let Some(Event::Done { nsfw_content_detected, .. }) = events.last() else { panic!("{events:?}") };
        assert_eq!(nsfw_content_detected.len(), if style.is_some() { 2 } else { 0 });
    }
}

#[tokio::test]
async fn replica_without_weights_refuses_to_check_and_makes_all_else() {
    let house = House::open().await;
    let mut dispatch = house.dispatch("x");
    dispatch.request.safety_checker = Some(SafetyStyle::Blur);
    let answer = house.post(serde_json::to_vec(&dispatch).unwrap(), TOKEN).await;
    assert_eq!(answer.status(), 400);
    let failure: runtime_api::Failure = answer.json().await.unwrap();
    assert_eq!(failure.reason, FailureReason::InvalidRequest);
    assert!(failure.message.contains("--safety-checker"), "{failure:?}");
    house.send(&house.dispatch("y")).await.done().await;
    assert!(house.storage.picture("x").is_none());
}

#[tokio::test]
async fn files_are_of_the_format_that_was_asked_for_with_their_parameters() {
    let house = House::open().await;
    for format in OutputFormat::ALL {
        let mut dispatch = house.dispatch(format.name());
        dispatch.request.output_format = format;
        dispatch.request.output_quality = Some(90);
        house.send(&dispatch).await.done().await;
        let file = house.storage.file(format.name(), format.media_type());
        assert_eq!(image::guess_format(&file).unwrap().to_mime_type(), format.media_type());
        let decoded = image::load_from_memory(&file).unwrap();
        assert_eq!((decoded.width(), decoded.height()), (16, 8));
        if format != OutputFormat::Png {
            let parameters: Vec<u8> = "Steps: 4, ".encode_utf16().flat_map(u16::to_be_bytes).collect();
            assert!(file.windows(parameters.len()).any(|window| window == parameters), "{format:?}");
        }
    }
}
