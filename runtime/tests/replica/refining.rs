//! Images by two models: the second goes on with what the first has left.

use runtime::worker::Limits;
use runtime_api::{Dispatch, Event, FailureReason, RefinerUse, WeightsTier};

use crate::house::House;
use crate::puppet::GOOD;

fn refined(house: &House, name: &str) -> Dispatch {
    let mut dispatch = house.dispatch(name);
    dispatch.refiner = Some(house.source("fine"));
    dispatch.request.refiner = Some(RefinerUse { model: "fine".to_owned(), start: 0.8 });
    dispatch
}

#[tokio::test]
async fn second_model_goes_on_where_the_first_has_left() {
    let house = House::open().await;
    house.add_model("fine", GOOD);
    house.send(&house.dispatch("plain")).await.done().await;
    let mut steps = Vec::new();
    let (mut weights_from, mut found) = (None, None);
    for event in house.send(&refined(&house, "refined")).await.done().await {
        match event {
            Event::Step { evaluation, evaluations, .. } => steps.push((evaluation, evaluations)),
            Event::Done { timings, family, .. } => (weights_from, found) = (Some(timings.weights_from), family),
            _ => {}
        }
    }
    // The puppet makes all of its four steps for each. Of the first, four fifths of what is expected.
    assert_eq!(steps, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 8), (6, 8), (7, 8), (8, 8)]);
    assert_eq!(weights_from, Some(WeightsTier::Device), "of the model that was called");
    assert_eq!(found.as_deref(), Some("puppet"));
    assert_ne!(house.storage.pixels("plain"), house.storage.pixels("refined"));
    let residents = house.state().await.resident;
    assert_eq!(residents.len(), 2);
}

#[tokio::test]
async fn two_models_that_have_room_for_one_take_turns() {
    let house = House::gated(Limits { resident_bytes: GOOD.len() as u64, max_images: 1, ..Limits::default() }).await;
    house.add_model("fine", GOOD);
    house.gate.open();
    let mut streams = Vec::new();
    for name in ["a", "b", "c"] {
        streams.push(house.send(&refined(&house, name)).await);
    }
    for stream in streams {
        stream.done().await;
    }
    let pixels = house.storage.pixels("a");
    assert_eq!((house.storage.pixels("b"), house.storage.pixels("c")), (pixels.clone(), pixels));
}

#[tokio::test]
async fn second_model_that_cannot_be_had_fails_the_generation_alone() {
    let house = House::open().await;
    house.add_model("fine", "no weights");
    let (reason, _) = house.send(&refined(&house, "refined")).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidModel);
    house.send(&house.dispatch("plain")).await.done().await;
    assert_eq!(house.state_becomes(|state| state.running == 0).await.queued, 0);
}

#[tokio::test]
async fn a_refiner_that_is_only_named_or_only_there_is_refused_at_the_door() {
    let house = House::open().await;
    house.add_model("fine", GOOD);
    let only_named = Dispatch { refiner: None, ..refined(&house, "x") };
    let mut only_there = refined(&house, "x");
    only_there.request.refiner = None;
    let mut twice_left = refined(&house, "x");
    twice_left.request.denoising_end = Some(0.5);
    for dispatch in [only_named, only_there, twice_left] {
        let (status, refusal) = house.refusal(&dispatch).await;
        assert_eq!(status, 400);
        assert_eq!(refusal.reason, FailureReason::InvalidRequest, "{}", refusal.message);
        assert!(refusal.message.contains("refiner"), "{}", refusal.message);
    }
}
