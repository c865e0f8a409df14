//! What shares a call, and that sharing changes nothing.

use runtime::worker::Limits;
use runtime_api::{Dispatch, Event};

use crate::house::House;

const CALLS: &str = "emulsion_runtime_denoiser_calls_total";
const ROWS: &str = "emulsion_runtime_denoiser_rows_total";

/// Two requests that differ in all that may differ within a call.
fn two_of_a_kind(house: &House, names: [&str; 2]) -> [Dispatch; 2] {
    let (mut first, mut second) = (house.dispatch(names[0]), house.dispatch(names[1]));
    first.request.num_inference_steps = Some(3);
    second.request.num_inference_steps = Some(5);
    second.request.guidance_scale = Some(1.0);
    second.request.seed = Some(1234);
    second.request.sampler = Some("EulerAncestralDiscreteScheduler".to_owned());
    [first, second]
}

#[tokio::test]
async fn different_requests_share_calls_and_their_pixels_are_those_made_alone() {
    let house = House::gated(Limits::default()).await;
    let [first, second] = two_of_a_kind(&house, ["first", "second"]);
    let mut streams = [house.send(&first).await, house.send(&second).await];
    // The first evaluation may begin before the second request is there; it waits at the gate.
    house.gate.allow(1);
    for stream in &mut streams {
        // With one evaluation allowed, only requests that share it or come first make a step.
        stream.until(|event| matches!(event, Event::Queued { .. })).await;
    }
    house.state_becomes(|state| state.queued == 0 || state.running >= 1).await;
    house.gate.open();
    for stream in streams {
        stream.done().await;
    }
    let calls = house.metric(CALLS).await;
    assert!((5.0..8.0).contains(&calls), "{calls} calls for 3 and 5 evaluations: none was shared");
    // Two rows with guidance, one without.
    assert_eq!(house.metric(ROWS).await, 3.0 * 2.0 + 5.0);

    let [first, second] = two_of_a_kind(&house, ["first-alone", "second-alone"]);
    house.send(&first).await.done().await;
    house.send(&second).await.done().await;
    assert_eq!(house.storage.pixels("first"), house.storage.pixels("first-alone"));
    assert_eq!(house.storage.pixels("second"), house.storage.pixels("second-alone"));
    assert_ne!(house.storage.pixels("first"), house.storage.pixels("second"));
}

#[tokio::test]
async fn call_takes_no_more_rows_than_the_limit() {
    let house = House::gated(Limits { max_rows: 2, ..Limits::default() }).await;
    let mut dispatch = house.dispatch("0");
    dispatch.request.samples = 3;
    dispatch.outputs = ["0", "1", "2"].map(|name| house.storage.target(name)).to_vec();
    dispatch.request.num_inference_steps = Some(1);
    house.gate.open();
    house.send(&dispatch).await.done().await;
    assert_eq!(house.metric(CALLS).await, 3.0);
    assert_ne!(house.storage.pixels("0"), house.storage.pixels("1"));
}

#[tokio::test]
async fn every_evaluation_is_told_and_previews_are_evenly_spaced() {
    let house = House::open().await;
    let mut dispatch = house.dispatch("one");
    dispatch.request.num_inference_steps = Some(6);
    dispatch.partial_images = 2;
    let events = house.send(&dispatch).await.done().await;
    let steps: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step { evaluation, evaluations: 6, .. } => Some(*evaluation),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let mut previews: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::Preview { image: 0, index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    previews.sort_unstable();
    assert_eq!(previews, [0, 1]);
}
