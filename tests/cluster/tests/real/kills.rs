use anyhow::Context as _;
use cluster::{Needs, Space, in_namespace};
use crds::RuntimePool;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::Api;
use serde_json::json;

use crate::{
    installation::{Installation, dedicated, first_pod, installed, kill_container, lacks, merged, plan, replicas, working},
    nodes::node_ready,
    shapes::{node, ready},
    stores::Stores,
};

/// What is asked for by callers that do not wait.
const ACCEPTED: usize = 8;

async fn wait_for_replicas(space: &Space, count: i32) -> anyhow::Result<()> {
    let ready = |pool: &RuntimePool| pool.status.as_ref().and_then(|status| status.ready_replicas) == Some(count);
    space.wait_for::<RuntimePool>("default", "running", ready).await.map(drop)
}

async fn leader(space: &Space) -> anyhow::Result<String> {
    let lease = space.api::<Lease>().get("emulsion-operator").await?;
    lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty()).context("nobody leads")
}

#[test]
fn another_operator_goes_on_when_the_leader_is_killed() {
    let values = json!({"operator": {"replicas": 2}, "pools": {"default": {"minReplicas": 1}}});
    installed("leader", Needs::Pods, &values, async |space, installation| {
        if space.cluster().control().is_err() {
            eprintln!("skipped: another's cluster has no containers for us to kill");
            return Ok(());
        }
        wait_for_replicas(space, 1).await?;
        installation
            .under_load(async {
                let first = space.retry("a leader", async || leader(space).await).await?;
                // Killed, and its pod deleted before it can come back under the same name.
                kill_container(space, &space.api::<Pod>().get(&first).await?).await?;
                space.kill_pod(&first).await?;
                // Nobody leads now: calls for what only an operator can start wait for the next one.
                space.apply(&dedicated("late", "idleAfter: 60s")).await?;
                space
                    .retry("the router to know the new model", async || {
                        let answer =
                            installation.post("/v1/images/generations", &json!({"model": "late", "prompt": "x", "steps": 2})).await?;
                        anyhow::ensure!(answer.status != 404, "{answer:?}");
                        anyhow::ensure!(answer.status == 200, "a call was lost: {answer:?}");
                        Ok(())
                    })
                    .await?;
                let next = leader(space).await?;
                anyhow::ensure!(next != first, "{first} leads although it was killed");
                Ok(())
            })
            .await
    });
}

#[test]
fn calls_go_on_while_the_api_server_is_killed_and_away() {
    let values = json!({"pools": {"default": {"minReplicas": 1}}});
    installed("api-server-kill", Needs::Hosts, &values, async |space, installation| {
        let control = space.cluster().control()?;
        wait_for_replicas(space, 1).await?;
        installation
            .under_load(async {
                control.kill_component("control-plane", "kube-apiserver").await?;
                space.retry("the API server to be back", async || leader(space).await).await?;
                control.stop_component("control-plane", "kube-apiserver").await?;
                let away = async {
                    anyhow::ensure!(leader(space).await.is_err(), "the API server is down, yet it answers");
                    for _ in 0..5 {
                        installation.draw("demo", 10).await.context("without an API server")?;
                    }
                    Ok(())
                };
                // It is brought back whatever happened: other tests need it, too.
                let away = away.await;
                control.start_component("control-plane", "kube-apiserver").await?;
                away?;
                // Operator and router follow it again.
                space.retry("the API server to be back", async || space.apply(&dedicated("after", "idleAfter: 60s")).await).await?;
                space.retry("a model that was declared afterwards to draw", async || installation.draw("after", 4).await).await
            })
            .await
    });
}

#[test]
fn no_accepted_call_is_lost_with_the_node_of_its_replica() {
    let here = json!({"nodeSelector": {"kubernetes.io/hostname": "node-1"}});
    let values = json!({"operator": here, "router": here, "pools": {"default": {"minReplicas": 2, "maxReplicas": 2}}});
    installed("node-kill", Needs::Hosts, &values, async |space, installation| {
        let control = space.cluster().control()?;
        wait_for_replicas(space, 2).await?;
        let lost = installation
            .under_load(async {
                space
                    .retry("a replica at work on the second node", async || {
                        working(space).await?.iter().find(|pod| node(pod) == "node-2").map(drop).context("none works there")
                    })
                    .await?;
                control.kill_host("node-2").await?;
                space
                    .retry("the lost replica to be replaced on the other node", async || {
                        let here = replicas(space).await?.iter().filter(|pod| node(pod) == "node-1" && ready(pod)).count();
                        anyhow::ensure!(here == 2, "{here} there");
                        Ok(())
                    })
                    .await
            })
            .await;
        // The node is brought back whatever happened: other tests need it, too.
        control.start_host("node-2").await?;
        space.wait_for_in(Api::<Node>::all(space.client()), "node-2", "back", node_ready).await?;
        lost
    });
}

#[test]
fn what_a_router_accepted_is_finished_after_its_kill_and_billed_once() {
    let values = json!({"pools": {"default": {"minReplicas": 1}}});
    installed("router-kill", Needs::Pods, &values, kill_a_router);
}

#[test]
fn what_one_of_two_routers_accepted_is_finished_after_its_kill_and_billed_once() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    in_namespace("routers-kill", Needs::Pods, async |space| {
        let Some(stores) = Stores::make(space).await? else { return Ok(()) };
        let values = merged(stores.values(2), &json!({"pools": {"default": {"minReplicas": 1}}}));
        let installation = Installation::new(space, &values).await?;
        kill_a_router(space, &installation).await?;
        installation.uninstall().await
    });
}

/// Lets calls be accepted, kills a router while their images are made, and fetches them all.
async fn kill_a_router(space: &Space, installation: &Installation<'_>) -> anyhow::Result<()> {
    if space.cluster().control().is_err() {
        eprintln!("skipped: another's cluster has no containers for us to kill");
        return Ok(());
    }
    wait_for_replicas(space, 1).await?;
    // One call more than is accepted before the kill: what is billed twice or not at all would show.
    let limited = json!({
        "apiVersion": "emulsion.dev/v1alpha1", "kind": "TenantPlan", "metadata": {"name": plan(space)},
        "spec": {"requestsPerMinute": 10000, "burst": 1000, "parallelImages": 100, "queueDepth": 1000, "callsPerDay": ACCEPTED + 1},
    });
    space.apply(&limited.to_string()).await?;
    let mut accepted = Vec::new();
    for seed in 0..ACCEPTED {
        let call = json!({
            "key": installation.key(), "model_id": "demo", "prompt": "a small green square", "num_inference_steps": 50, "seed": seed,
            "instant_response": true,
        });
        let answer = installation.post("/api/v6/images/text2img", &call).await?;
        anyhow::ensure!(answer.body["status"] == "processing", "{answer:?}");
        accepted.push(answer.body["id"].as_u64().with_context(|| format!("no id in {answer:?}"))?);
    }
    space.retry("a replica to work on them", async || working(space).await?.pop().context("none works")).await?;
    let router = first_pod(space, "app.kubernetes.io/name=emulsion-router").await?;
    kill_container(space, &space.api::<Pod>().get(&router).await?).await?;
    for id in &accepted {
        let fetch = json!({"key": installation.key()});
        let answer = space
            .retry("an accepted image", async || {
                let answer = installation.post(&format!("/api/v6/images/fetch/{id}"), &fetch).await?;
                anyhow::ensure!(answer.body["status"] == "success", "{answer:?}");
                Ok(answer)
            })
            .await?;
        let url = answer.body["output"][0].as_str().unwrap_or_default();
        let picture = space.retry("its picture", async || installation.fetch(url).await).await?;
        anyhow::ensure!(picture.starts_with(b"\x89PNG"), "{answer:?}");
    }
    space
        .retry("the killed router to be started again", async || {
            let status = space.api::<Pod>().get(&router).await?.status;
            let restarts = status.and_then(|status| Some(status.container_statuses?.first()?.restart_count));
            anyhow::ensure!(restarts == Some(1), "{router} restarted {restarts:?} times");
            Ok(())
        })
        .await?;
    installation.draw("demo", 2).await?;
    let beyond = installation.post("/v1/images/generations", &json!({"model": "demo", "prompt": "x"})).await?;
    anyhow::ensure!(beyond.status == 429, "{beyond:?}");
    Ok(())
}
