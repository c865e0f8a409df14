//! How generations end that do not end well, and that nobody else notices.

use std::time::Duration;

use runtime::worker::{Limits, Stopped};
use runtime_api::{Event, FailureReason};

use crate::house::{House, PATIENCE};
use crate::puppet::{FAIL, PANIC};

#[tokio::test]
async fn closing_the_stream_frees_the_place_at_the_next_step() {
    let house = House::gated(Limits { max_images: 1, ..Limits::default() }).await;
    let mut endless = house.dispatch("endless");
    endless.request.num_inference_steps = Some(1000);
    let mut stream = house.send(&endless).await;
    house.gate.allow(1);
    stream.until(|event| matches!(event, Event::Step { evaluation: 1, .. })).await;
    let waiting = house.send(&house.dispatch("waiting")).await;
    house.state_becomes(|state| state.queued == 1).await;
    drop(stream);
    // One more evaluation is under way; then the place is free, and the other takes it with the 4 it needs. The server may need a few
    // evaluations to learn that the connection is gone, but never a thousand.
    let stopped = tokio::spawn(waiting.done());
    while !stopped.is_finished() {
        house.gate.allow(1);
        tokio::task::yield_now().await;
    }
    stopped.await.unwrap();
    assert_eq!(house.metric("emulsion_runtime_generations_total{outcome=\"cancelled\"}").await, 1.0);
    assert!(house.metric("emulsion_runtime_steps_total").await < 1000.0);
    assert!(house.storage.picture("endless").is_none());
}

#[tokio::test]
async fn cancelled_work_in_the_queue_costs_nothing() {
    let house = House::gated(Limits { max_images: 1, ..Limits::default() }).await;
    let running = house.send(&house.dispatch("running")).await;
    house.state_becomes(|state| state.running == 1 && state.queued == 0).await;
    let waiting = house.send(&house.dispatch("waiting")).await;
    house.state_becomes(|state| state.queued == 1).await;
    drop(waiting);
    // The device thread stands at the gate; each evaluation lets it look around once.
    house.gate.open();
    running.done().await;
    house.state_becomes(|state| state.queued == 0 && state.running == 0).await;
    assert_eq!(
        house.metric("emulsion_runtime_images_total").await,
        house.metric("emulsion_runtime_generations_total{outcome=\"done\"}").await
    );
}

#[tokio::test]
async fn deadline_ends_a_generation_and_its_place_is_free() {
    let house = House::gated(Limits::default()).await;
    let mut late = house.dispatch("late");
    late.deadline_ms = 0;
    assert_eq!(house.send(&late).await.failure().await.0, FailureReason::DeadlineExceeded);
    house.gate.open();
    house.send(&house.dispatch("next")).await.done().await;
}

#[tokio::test]
async fn failed_image_leaves_its_neighbours_alone() {
    let house = House::gated(Limits::default()).await;
    let mut failing = house.dispatch("failing");
    failing.request.prompt = FAIL.to_owned();
    let good = house.send(&house.dispatch("good")).await;
    let failing = house.send(&failing).await;
    house.gate.open();
    assert_eq!(failing.failure().await.0, FailureReason::Internal);
    good.done().await;
    house.send(&house.dispatch("alone")).await.done().await;
    assert_eq!(house.storage.pixels("good"), house.storage.pixels("alone"));
}

#[tokio::test]
async fn panic_in_the_engine_costs_its_generation_and_no_more() {
    let house = House::open().await;
    let mut panicking = house.dispatch("panicking");
    panicking.request.prompt = PANIC.to_owned();
    assert_eq!(house.send(&panicking).await.failure().await.0, FailureReason::Internal);
    house.send(&house.dispatch("next")).await.done().await;
    assert_eq!(house.metric("emulsion_runtime_panics_total").await, 1.0);
    assert_eq!(house.state().await.running, 0);
}

#[tokio::test]
async fn engine_that_panics_again_and_again_is_given_up() {
    let mut house = House::open().await;
    let mut panicking = house.dispatch("panicking");
    panicking.request.prompt = PANIC.to_owned();
    panicking.request.samples = 3;
    panicking.outputs = vec![house.storage.target("x"); 3];
    // A size of its own for each, so that each is in a call of its own within one round.
    for width in [8, 16, 24] {
        panicking.request.width = Some(width);
        let stream = house.send(&panicking).await;
        assert_eq!(stream.failure().await.0, FailureReason::Internal);
    }
    let stopped = house.stopped.take().unwrap();
    assert_eq!(stopped.await.unwrap(), Stopped::Broken);
}

#[tokio::test]
async fn a_device_that_hangs_is_told_by_the_health_until_it_goes_on() {
    // Longer than an idle device is silent.
    let house = House::gated(Limits { stall: Duration::from_secs(3), ..Limits::default() }).await;
    let health = |wanted: u16| {
        let house = &house;
        let becomes = async move {
            while house.get("/healthz").await.status() != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, becomes)
    };
    health(200).await.expect("an idle device is healthy");
    let hanging = house.send(&house.dispatch("x")).await;
    health(503).await.expect("nothing says that it hangs");
    house.gate.open();
    hanging.done().await;
    health(200).await.expect("it goes on");
}
