//! Models that are in memory before anybody asks.

use std::time::Duration;

use runtime::worker::Limits;
use runtime_api::{Event, Failure, FailureReason, WARM_MODELS_LIMIT, WARM_MODELS_PATH, WarmModel, WarmModels, WarmReport, WeightsTier};

use crate::house::{House, PATIENCE};
use crate::puppet::GOOD;

async fn put(house: &House, models: &[&str]) -> reqwest::Response {
    let models = models.iter().map(|name| WarmModel { source: house.source(name), contents: Vec::new() }).collect();
    house.put(WARM_MODELS_PATH, &WarmModels { models }).await
}

/// Tells the replica what is wanted, as routers do, until it answers as wanted.
async fn warm_becomes(house: &House, models: &[&str], wanted: impl Fn(&WarmReport) -> bool) -> WarmReport {
    let reached = async {
        loop {
            let report: WarmReport = put(house, models).await.json().await.unwrap();
            if wanted(&report) {
                return report;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("the warm models never became as wanted")
}

fn resident(report: &WarmReport) -> Vec<bool> {
    report.models.iter().map(|model| model.resident).collect()
}

#[tokio::test]
async fn a_warm_model_is_in_memory_before_anybody_asks() {
    let house = House::open().await;
    warm_becomes(&house, &["demo"], |report| resident(report) == [true]).await;
    let state = house.state().await;
    assert_eq!(state.resident.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["demo"]);
    let events = house.send(&house.dispatch("first")).await.done().await;
    assert!(matches!(events.last(), Some(Event::Done { timings, .. }) if timings.weights_from == WeightsTier::Device), "{events:?}");
    assert_eq!(house.metric("emulsion_runtime_load_seconds_count").await, 1.0);
}

#[tokio::test]
async fn a_call_takes_the_place_of_a_warm_model_and_that_comes_back() {
    let limits = Limits { resident_bytes: GOOD.len() as u64, warm_return: Duration::ZERO, ..Limits::default() };
    let house = House::gated(limits).await;
    house.gate.open();
    house.add_model("other", GOOD);
    warm_becomes(&house, &["demo"], |report| resident(report) == [true]).await;
    house.send(&runtime_api::Dispatch { model: house.source("other"), ..house.dispatch("x") }).await.done().await;
    house.state_becomes(|state| state.resident.iter().all(|model| model.id == "other" && !model.in_use)).await;
    warm_becomes(&house, &["demo"], |report| resident(report) == [true]).await;
    assert_eq!(house.metric("emulsion_runtime_load_seconds_count").await, 3.0);
}

#[tokio::test]
async fn warm_models_that_cannot_be_there_say_why_and_the_first_ones_stay() {
    let house = House::gated(Limits { resident_bytes: 2 * GOOD.len() as u64, ..Limits::default() }).await;
    house.gate.open();
    for model in ["second", "third"] {
        house.add_model(model, GOOD);
    }
    house.add_model("huge", &GOOD.repeat(3));
    house.add_model("cut", "goo");
    let wanted = ["demo", "missing", "second", "huge", "cut", "third"];
    let report = warm_becomes(&house, &wanted, |report| report.models.iter().all(|model| model.resident || model.problem.is_some())).await;
    assert_eq!(resident(&report), [true, false, true, false, false, false]);
    for (model, reason) in [(1, "cannot be opened"), (3, "this replica may hold 8"), (4, "cut off"), (5, "other warm models")] {
        let problem = report.models[model].problem.as_deref().unwrap_or_default();
        assert!(problem.contains(reason), "{}: {problem}", wanted[model]);
    }
    // What is not warm goes before what is, and a call gets what it needs.
    house.send(&runtime_api::Dispatch { model: house.source("third"), ..house.dispatch("x") }).await.done().await;
    // Nothing is wanted any more.
    let report: WarmReport = put(&house, &[]).await.json().await.unwrap();
    assert_eq!(report, WarmReport::default());
}

#[tokio::test]
async fn more_models_than_can_be_kept_are_refused_and_so_are_strangers() {
    let house = House::open().await;
    let refused = put(&house, &vec!["demo"; WARM_MODELS_LIMIT + 1]).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.json::<Failure>().await.unwrap().reason, FailureReason::InvalidRequest);
    let stranger = reqwest::Client::new().put(house.url(WARM_MODELS_PATH)).json(&WarmModels::default()).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
}
