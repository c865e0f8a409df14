//! Many models on one installation: all become Ready, and nothing is written when nothing happens.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use cluster::{Needs, Space};
use crds::ModelDeployment;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use crate::installation::{condition, first_pod, installed, reason};

/// How many models are declared: in `make test` as many as its time allows, in `make bench-models` ten thousand.
const COUNT: &str = "EMULSION_TEST_MODELS";
const DEFAULT_COUNT: usize = 1000;
/// Writes at a time, as one of many clients makes them.
const CONCURRENCY: usize = 32;
/// How long the last of them may take to become Ready; a thousand take seconds.
const PATIENCE: Duration = Duration::from_secs(600);
/// Renewals of the operator's lease, one every 5 seconds, during which nothing else may be written.
const IDLE_RENEWALS: usize = 3;

fn model(name: &str) -> ModelDeployment {
    let object = json!({
        "apiVersion": "emulsion.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name},
        "spec": {"source": {"uri": "file:///models/demo"}, "family": "sd15"},
    });
    serde_json::from_value(object).expect("it is a ModelDeployment")
}

/// What the operator tells of itself.
struct Figures {
    /// Requests that write, but for those that renew the lease.
    writes: u64,
    requests: u64,
    resident_bytes: u64,
}

async fn figures(space: &Space) -> anyhow::Result<Figures> {
    let operator = first_pod(space, "app.kubernetes.io/name=emulsion-operator").await?;
    let text = space.port_forward(&operator, 8081).await?.get("/metrics").await?;
    let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let values = text.lines().filter(|line| wanted(line)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    };
    let asked = |line: &str| line.starts_with("emulsion_operator_api_requests_total{");
    Ok(Figures {
        // The lease is replaced by PUT, which nothing else uses.
        writes: sum(&|line| asked(line) && ["PATCH", "POST", "DELETE"].iter().any(|method| line.contains(&format!("method=\"{method}\"")))),
        requests: sum(&asked),
        resident_bytes: sum(&|line| line.starts_with("process_resident_memory_bytes ")),
    })
}

async fn create(models: &Api<ModelDeployment>, prefix: &str, count: usize) -> anyhow::Result<Duration> {
    let started = Instant::now();
    futures::stream::iter(0..count)
        .map(async |number| models.create(&PostParams::default(), &model(&format!("{prefix}-{number}"))).await.map(drop))
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    Ok(started.elapsed())
}

/// What the API server itself needs for the same: each object made, and one status written to each.
async fn floor(models: &Api<ModelDeployment>, count: usize) -> anyhow::Result<Duration> {
    let created = create(models, "floor", count).await?;
    let started = Instant::now();
    let status = json!({"apiVersion": "emulsion.dev/v1alpha1", "kind": "ModelDeployment", "status": {"family": "sd15", "replicas": 0}});
    futures::stream::iter(0..count)
        .map(async |number| {
            let parameters = PatchParams::apply("floor").force();
            models.patch_status(&format!("floor-{number}"), &parameters, &Patch::Apply(&status)).await.map(drop)
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<()>()
        .await?;
    Ok(created + started.elapsed())
}

/// Watches until so many models whose names begin so are Ready.
async fn wait_until_ready(models: &Api<ModelDeployment>, prefix: &str, count: usize) -> anyhow::Result<()> {
    let mut seen = std::pin::pin!(watcher(models.clone(), watcher::Config::default()).default_backoff().touched_objects());
    let mut ready = BTreeSet::new();
    let watching = async {
        while ready.len() < count {
            // An error of the watch is not its end.
            if let Some(Ok(model)) = seen.next().await
                && model.name_any().starts_with(prefix)
                && reason(&model) == "Available"
            {
                ready.insert(model.name_any());
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, watching).await;
    anyhow::ensure!(ended.is_ok(), "{} of {count} models are Ready after {PATIENCE:?}", ready.len());
    Ok(())
}

async fn wait_for_renewals(space: &Space, count: usize) -> anyhow::Result<()> {
    let renewed = async || anyhow::Ok(space.api::<Lease>().get("emulsion-operator").await?.spec.and_then(|spec| spec.renew_time));
    for _ in 0..count {
        let before = renewed().await?;
        space
            .retry("the lease to be renewed", async || {
                anyhow::ensure!(renewed().await? != before, "it is not");
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[test]
fn many_models_become_ready_and_an_idle_cluster_is_not_written_to() {
    installed("many", Needs::Pods, &json!({"operator": {"resources": {"limits": {"memory": "512Mi"}}}}), async |space, _| {
        let count: usize = std::env::var(COUNT).ok().and_then(|count| count.parse().ok()).unwrap_or(DEFAULT_COUNT);
        let models = space.api::<ModelDeployment>();
        let before = figures(space).await?;
        let started = Instant::now();
        let created = create(&models, "model", count).await?;
        wait_until_ready(&models, "model", count).await?;
        let ready = started.elapsed();

        // What is left of the last reconciliations comes to an end.
        space
            .retry("nothing to be written any more", async || {
                let writes = figures(space).await?.writes;
                wait_for_renewals(space, 1).await?;
                anyhow::ensure!(figures(space).await?.writes == writes, "it still writes");
                Ok(())
            })
            .await?;
        let idle = figures(space).await?;
        wait_for_renewals(space, IDLE_RENEWALS).await?;
        let written = figures(space).await?.writes - idle.writes;
        anyhow::ensure!(written == 0, "{written} writes although nothing happened");
        anyhow::ensure!(idle.requests - before.requests < 3 * count as u64, "more requests than a status and an event for each");

        let one_more = Instant::now();
        models.create(&PostParams::default(), &model("one-more")).await?;
        let seen = space.wait_for::<ModelDeployment>("one-more", "ready", |model| reason(model) == "Available").await?;
        let one_more = one_more.elapsed();
        anyhow::ensure!(condition(&seen, "Ready").is_some_and(|condition| condition.status == "True"), "{seen:?}");

        eprintln!("{count} ModelDeployments: made in {:.1} s, all Ready after {:.1} s", created.as_secs_f64(), ready.as_secs_f64());
        eprintln!(
            "operator: {} requests, {:.0} MiB before, {:.0} MiB after; idle: {written} writes; one more is Ready after {:.0} ms",
            idle.requests - before.requests,
            before.resident_bytes as f64 / f64::from(1 << 20),
            idle.resident_bytes as f64 / f64::from(1 << 20),
            one_more.as_secs_f64() * 1000.0,
        );
        if std::env::var_os(COUNT).is_some() {
            // The operator must not help.
            space.cluster().kubectl(["scale", "deployment/emulsion-operator", "--replicas=0", "--namespace", space.name()]).await?.ok()?;
            space
                .retry("the operator to end", async || {
                    anyhow::ensure!(space.pods("app.kubernetes.io/name=emulsion-operator").await?.is_empty(), "it runs");
                    Ok(())
                })
                .await?;
            let floor = floor(&models, count).await?;
            let ratio = ready.as_secs_f64() / floor.as_secs_f64();
            eprintln!(
                "floor: the same objects and one status each, written without an operator, take {:.1} s: ratio {ratio:.2}",
                floor.as_secs_f64()
            );
        }
        Ok(())
    });
}
