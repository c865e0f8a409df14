//! Changed objects are in force without a restart. How soon is printed; what counts is that it happens.

use std::time::Instant;

use cluster::Needs;
use serde_json::json;

use crate::installation::{Installation, installed, plan};

/// Changes of each kind that are measured.
const ROUNDS: u32 = 5;

/// The width of the picture that a call without a size brings.
async fn drawn_width(installation: &Installation<'_>) -> anyhow::Result<u32> {
    let call = json!({"model": "demo", "prompt": "a red circle", "steps": 1, "response_format": "url"});
    let answer = installation.post("/v1/images/generations", &call).await?;
    anyhow::ensure!(answer.status == 200, "{answer:?}");
    let url = answer.body["data"][0]["url"].as_str().unwrap_or_default();
    let picture = installation.fetch(url).await?;
    let width = picture.get(16..20).and_then(|bytes| bytes.try_into().ok());
    width.map(u32::from_be_bytes).ok_or_else(|| anyhow::anyhow!("it is no PNG"))
}

fn print(what: &str, mut took_ms: Vec<u128>) {
    took_ms.sort_unstable();
    eprintln!("a changed {what} was in force after {took_ms:?} ms, calls included");
}

#[test]
fn a_changed_plan_is_in_force_without_a_restart() {
    installed("plans", Needs::Pods, &json!({"pools": {"default": {"minReplicas": 1}}}), async |space, installation| {
        let limited = |calls: u32| {
            let spec = json!({"requestsPerMinute": 10000, "burst": 1000, "parallelImages": 5, "queueDepth": 10, "callsPerDay": calls});
            json!({"apiVersion": "emulsion.dev/v1alpha1", "kind": "TenantPlan", "metadata": {"name": plan(space)}, "spec": spec})
                .to_string()
        };
        let call = json!({"model": "demo", "prompt": "a red circle", "steps": 1});
        let answered = async |expected: u16| {
            let status = installation.post("/v1/images/generations", &call).await?.status;
            anyhow::ensure!(status == expected, "{status}");
            Ok(())
        };
        answered(200).await?;
        let mut took_ms = Vec::new();
        for _ in 0..ROUNDS {
            for (calls, status, what) in [(1, 429, "the day's only call to be used"), (100_000, 200, "calls to be served again")] {
                space.apply(&limited(calls)).await?;
                let applied = Instant::now();
                space.retry(what, async || answered(status).await).await?;
                took_ms.push(applied.elapsed().as_millis());
            }
        }
        print("plan", took_ms);
        Ok(())
    });
}

#[test]
fn a_changed_default_of_a_model_is_in_force_without_a_restart() {
    installed("defaults", Needs::Pods, &json!({"pools": {"default": {"minReplicas": 1}}}), async |space, installation| {
        let mut took_ms = Vec::new();
        for round in 0..ROUNDS {
            let width = 32 + 8 * (round % 2);
            let patch = json!({"spec": {"defaults": {"width": width}}}).to_string();
            let patch = ["patch", "modeldeployment", "demo", "--type=merge", "--patch", &patch, "--namespace", space.name()];
            space.cluster().kubectl(patch).await?.ok()?;
            let applied = Instant::now();
            space
                .retry("a picture of that width", async || {
                    let drawn = drawn_width(installation).await?;
                    anyhow::ensure!(drawn == width, "{drawn}");
                    Ok(())
                })
                .await?;
            took_ms.push(applied.elapsed().as_millis());
        }
        print("default", took_ms);
        Ok(())
    });
}
