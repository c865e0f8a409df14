//! Models come, stay under the limit, and go; bad ones harm nobody.

use runtime::worker::Limits;
use runtime_api::{Dispatch, Event, FailureReason, WeightsTier};

use crate::house::House;
use crate::puppet::{GOOD, PANIC};

fn of_model(house: &House, model: &str, name: &str) -> Dispatch {
    Dispatch { model: house.source(model), ..house.dispatch(name) }
}

fn tier(events: &[Event]) -> WeightsTier {
    match events.last() {
        Some(Event::Done { timings, .. }) => timings.weights_from,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn weights_are_read_once_and_the_answer_says_where_they_came_from() {
    let house = House::open().await;
    let first = house.send(&house.dispatch("first")).await.done().await;
    assert_eq!(tier(&first), WeightsTier::Disk);
    assert!(first.iter().any(|event| matches!(event, Event::Loading { .. })));
    let second = house.send(&house.dispatch("second")).await.done().await;
    assert_eq!(tier(&second), WeightsTier::Device);
    assert!(!second.iter().any(|event| matches!(event, Event::Loading { .. })));
    assert_eq!(house.metric("emulsion_runtime_load_seconds_count").await, 1.0);
}

#[tokio::test]
async fn many_requests_for_a_cold_model_read_it_once() {
    let house = House::open().await;
    let mut streams = Vec::new();
    for name in ["a", "b", "c", "d"] {
        streams.push(house.send(&house.dispatch(name)).await);
    }
    for stream in streams {
        stream.done().await;
    }
    assert_eq!(house.metric("emulsion_runtime_load_seconds_count").await, 1.0);
}

#[tokio::test]
async fn bad_checkpoint_is_told_and_the_next_good_request_works() {
    let house = House::open().await;
    house.add_model("cut", "goo");
    house.add_model("hostile", PANIC);
    for model in ["cut", "hostile", "missing"] {
        let answer = house.post(serde_json::to_vec(&of_model(&house, model, "x")).unwrap(), crate::house::TOKEN).await;
        let reason = if answer.status() == 200 {
            // Told in the stream, as it was read only there.
            assert!(answer.text().await.unwrap().contains("\"reason\":\"invalid_model\""), "{model}");
            continue;
        } else {
            answer.json::<runtime_api::Failure>().await.unwrap().reason
        };
        assert_eq!(reason, FailureReason::InvalidModel, "{model}");
    }
    house.send(&house.dispatch("good")).await.done().await;
}

#[tokio::test]
async fn model_with_another_digest_than_declared_is_refused() {
    let house = House::open().await;
    let mut dispatch = house.dispatch("x");
    dispatch.model.sha256 = Some("0".repeat(64));
    assert_eq!(house.send(&dispatch).await.failure().await.0, FailureReason::InvalidModel);
}

#[tokio::test]
async fn least_recently_used_model_makes_room() {
    let house = House::gated(Limits { resident_bytes: 2 * GOOD.len() as u64, ..Limits::default() }).await;
    house.gate.open();
    for model in ["second", "third"] {
        house.add_model(model, GOOD);
    }
    for model in ["demo", "second", "demo", "third"] {
        house.send(&of_model(&house, model, "x")).await.done().await;
    }
    let state = house.state_becomes(|state| state.resident.len() == 2).await;
    let mut resident: Vec<&str> = state.resident.iter().map(|model| model.id.as_str()).collect();
    resident.sort_unstable();
    assert_eq!(resident, ["demo", "third"]);
    assert!(state.resident_bytes <= state.resident_bytes_limit);
}

#[tokio::test]
async fn model_in_use_stays_and_the_other_waits_for_its_room() {
    let house = House::gated(Limits { resident_bytes: GOOD.len() as u64, ..Limits::default() }).await;
    house.add_model("other", GOOD);
    let mut using = house.send(&house.dispatch("using")).await;
    house.gate.allow(1);
    using.until(|event| matches!(event, Event::Step { .. })).await;
    let other = house.send(&of_model(&house, "other", "other")).await;
    house.gate.allow(1);
    using.until(|event| matches!(event, Event::Step { .. })).await;
    let state = house.state().await;
    assert_eq!((state.resident.len(), state.resident[0].id.as_str(), state.resident[0].in_use), (1, "demo", true));
    house.gate.open();
    using.done().await;
    other.done().await;
    assert_eq!(house.state_becomes(|state| state.running == 0).await.resident[0].id, "other");
}

#[tokio::test]
async fn image_beyond_the_memory_is_refused_before_a_weight_is_read() {
    // The puppet takes a byte for each pixel of each row: 16 × 8 × 2.
    let house = House::gated(Limits { computing_bytes: 255, ..Limits::default() }).await;
    house.gate.open();
    let (reason, message) = house.send(&house.dispatch("x")).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidRequest);
    assert!(
        message.contains("16×8 takes 256 bytes") && message.contains("has 255") && message.contains("--computing-bytes-limit"),
        "{message}"
    );
    assert!(house.state().await.resident.is_empty());
    let mut fits = house.dispatch("x");
    fits.request.guidance_scale = Some(1.0);
    house.send(&fits).await.done().await;
    // Now that the model is there.
    assert_eq!(house.send(&house.dispatch("x")).await.failure().await, (reason, message));
}

#[tokio::test]
async fn model_beyond_the_limit_is_refused_with_the_way_out() {
    let house = House::gated(Limits { resident_bytes: 1, ..Limits::default() }).await;
    let (reason, message) = house.send(&house.dispatch("x")).await.failure().await;
    assert_eq!(reason, FailureReason::InvalidModel);
    assert!(message.contains("--resident-bytes-limit"), "{message}");
}
