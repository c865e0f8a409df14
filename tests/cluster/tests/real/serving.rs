use std::collections::BTreeSet;

use anyhow::Context as _;
use cluster::{Needs, Space};
use crds::{ModelDeployment, RuntimePool};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use crate::installation::{condition, dedicated, installed, kill_container, pool_reason, reason, replicas, working};

/// Every object of the namespace, of whatever kind, but for events, which tell of objects and go by themselves.
async fn objects(space: &Space) -> anyhow::Result<BTreeSet<String>> {
    let kubectl = async |arguments: &[&str]| space.cluster().kubectl(arguments.iter().copied()).await?.ok();
    let kinds = kubectl(&["api-resources", "--verbs=list", "--namespaced", "--output=name"]).await?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let found = kubectl(&["get", &kinds.join(","), "--output=name", "--namespace", space.name()]).await?;
    Ok(found.lines().map(str::to_owned).collect())
}

#[test]
fn a_cold_pooled_model_is_its_custom_resource_and_no_other_object() {
    installed("cold", Needs::Pods, &json!({}), async |space, _| {
        space.wait_for::<RuntimePool>("default", "asleep", |pool| pool_reason(pool) == "Asleep").await?;
        let before = objects(space).await?;
        let cold = "{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: cold}, spec: {source: {uri: 'file:///models/demo'}, \
                    family: sd15}}";
        space.apply(cold).await?;
        space.wait_for::<ModelDeployment>("cold", "ready", |model| reason(model) == "Available").await?;
        let after = objects(space).await?;
        assert_eq!(after.difference(&before).collect::<Vec<_>>(), ["modeldeployment.emulsion.dev/cold"]);
        Ok(())
    });
}

#[test]
fn from_apply_to_an_image_through_the_service_and_back_to_zero() {
    installed("serving", Needs::Pods, &json!({"pools": {"default": {"idleAfter": "5s"}}}), async |space, installation| {
        // The demo model is there, ready and without any object but itself.
        space.wait_for::<ModelDeployment>("demo", "ready", |model| reason(model) == "Available").await?;
        space.wait_for::<RuntimePool>("default", "asleep", |pool| pool_reason(pool) == "Asleep").await?;
        assert_eq!(replicas(space).await?.len(), 0, "nothing runs before somebody calls");
        let tested = installation.helm_test().await?;
        assert!(tested.contains("Succeeded"), "{tested}");

        installation.draw("demo", 4).await?;
        let call = json!({"key": installation.key(), "model_id": "demo", "prompt": "a small green square", "num_inference_steps": 4});
        let answer = installation.post("/api/v6/images/text2img", &call).await?;
        assert_eq!(answer.body["status"], "success", "{answer:?}");
        let url = answer.body["output"][0].as_str().unwrap_or_default();
        assert!(installation.fetch(url).await?.starts_with(b"\x89PNG"), "{answer:?}");

        // A model of its own: from zero to an image, and back, while the pool serves.
        installation
            .under_load(async {
                space.apply(&dedicated("own", "idleAfter: 5s")).await?;
                space.wait_for::<ModelDeployment>("own", "asleep", |model| reason(model) == "Asleep").await?;
                installation.draw("own", 4).await?;
                let asleep = |model: &ModelDeployment| {
                    let status = model.status.clone().unwrap_or_default();
                    reason(model) == "Asleep" && status.replicas == Some(0) && status.last_used.is_some()
                };
                space.wait_for::<ModelDeployment>("own", "asleep again, and says that it was used", asleep).await
            })
            .await?;
        let shown = space.cluster().kubectl(["get", "modeldeployments", "--namespace", space.name()]).await?.ok()?;
        for column in ["FAMILY", "REPLICAS", "READY", "REASON", "LAST USED"] {
            assert!(shown.lines().next().is_some_and(|header| header.contains(column)), "{column}: {shown}");
        }
        let own = shown.lines().find(|line| line.starts_with("own ")).unwrap_or_default();
        let [_, family, replicas, ready, reason, used, _] = own.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{shown}") };
        assert_eq!((family, replicas, ready, reason), ("sd15", "0", "True", "Asleep"), "{shown}");
        assert!(used.starts_with(|first: char| first.is_ascii_digit()), "{shown}");
        space.wait_for::<RuntimePool>("default", "asleep again", |pool| pool_reason(pool) == "Asleep").await?;

        // Without its custom resource nothing of it stays.
        space.cluster().kubectl(["delete", "modeldeployment", "own", "--namespace", space.name()]).await?.ok()?;
        space.wait_gone::<Deployment>("emulsion-model-own").await
    });
}

#[test]
fn no_accepted_request_is_lost_when_a_replica_is_killed_in_mid_image() {
    installed("kill", Needs::Pods, &json!({"pools": {"default": {"minReplicas": 2, "maxReplicas": 2}}}), async |space, installation| {
        if space.cluster().control().is_err() {
            eprintln!("skipped: another's cluster has no containers for us to kill");
            return Ok(());
        }
        space
            .wait_for::<RuntimePool>("default", "running", |pool| pool.status.as_ref().and_then(|status| status.ready_replicas) == Some(2))
            .await?;
        let draw = async |calls: usize| {
            for _ in 0..calls {
                installation.draw("demo", 20).await?;
            }
            anyhow::Ok(())
        };
        let kill = async {
            // Twice, each time while images are being made.
            for _ in 0..2 {
                let pod = space.retry("a replica that works", async || working(space).await?.pop().context("none works")).await?;
                kill_container(space, &pod).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(draw(6), draw(6), draw(6), kill)?;
        let restarts: i32 = replicas(space)
            .await?
            .iter()
            .flat_map(|pod| pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()))
            .map(|container| container.restart_count)
            .sum();
        assert!(restarts >= 1, "replicas were killed");
        Ok(())
    });
}

#[test]
fn what_is_invalid_is_refused_and_what_cannot_work_says_why_and_heals() {
    installed("refusals", Needs::Pods, &json!({"models": {"demo": null}}), async |space, installation| {
        let refused = async |yaml: &str| space.apply(yaml).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        let both = refused(&dedicated("both", "minReplicas: 3, maxReplicas: 2")).await;
        assert!(both.contains("minReplicas must not be greater than maxReplicas"), "{both}");
        let volume = dedicated("volume", "").replace("file:///models/demo", "pvc://claim/x").replace("dedicated: {}", "pooled: {}");
        assert!(refused(&volume).await.contains("a pvc:// source needs serving.dedicated"));

        let model = |name: &str, rest: &str| {
            format!("{{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {{name: {name}}}, spec: {{{rest}}}}}")
        };
        let source =
            "source: {uri: 'file:///models/demo'}, family: sd15, defaults: {width: 64, height: 64}, limits: {minWidth: 32, minHeight: 32}";
        // A pool that is not there.
        space.apply(&model("lost", &format!("{source}, serving: {{pooled: {{pool: late}}}}"))).await?;
        space.wait_for::<ModelDeployment>("lost", "told that its pool is unknown", |model| reason(model) == "PoolUnknown").await?;
        space
            .retry("the router to tell what the model lacks", async || {
                let answer = installation.post("/v1/images/generations", &json!({"model": "lost", "prompt": "x"})).await?;
                // Until its watch has seen the model, it knows none of that name.
                let told = answer.body["error"]["message"].as_str().is_some_and(|message| message.contains("the RuntimePool late"));
                anyhow::ensure!(answer.status == 503 && told, "{answer:?}");
                Ok(())
            })
            .await?;
        space.apply("{apiVersion: emulsion.dev/v1alpha1, kind: RuntimePool, metadata: {name: late}, spec: {}}").await?;
        space.wait_for::<ModelDeployment>("lost", "healed", |model| reason(model) == "Available").await?;

        // Two claims on one id.
        space.apply(&model("first", &format!("modelId: shared, {source}"))).await?;
        space.wait_for::<ModelDeployment>("first", "ready", |model| reason(model) == "Available").await?;
        space.apply(&model("second", &format!("modelId: shared, {source}"))).await?;
        let second = space.wait_for::<ModelDeployment>("second", "in conflict", |model| reason(model) == "Conflict").await?;
        assert!(condition(&second, "Ready").is_some_and(|condition| condition.message.contains("/first")), "{second:?}");
        space.cluster().kubectl(["delete", "modeldeployment", "first", "--namespace", space.name()]).await?.ok()?;
        space.wait_for::<ModelDeployment>("second", "healed", |model| reason(model) == "Available").await?;

        // More GPUs than any node has.
        space.apply(&dedicated("greedy", "minReplicas: 1, resources: {limits: {'nvidia.com/gpu': 64}}")).await?;
        let greedy =
            space.wait_for::<ModelDeployment>("greedy", "told that no node takes it", |model| reason(model) == "ReplicasFailing").await?;
        let told = condition(&greedy, "Ready").map(|condition| condition.message.clone()).unwrap_or_default();
        assert!(told.contains("no node takes a replica") && told.contains("nvidia.com/gpu"), "{told}");
        space.apply(&dedicated("greedy", "minReplicas: 1")).await?;
        space.wait_for::<ModelDeployment>("greedy", "healed", |model| reason(model) == "Available").await?;
        installation.draw("greedy", 4).await
    });
}

#[test]
fn external_scaling_is_obeyed_and_what_others_change_is_repaired() {
    let patient = json!({"pools": {"default": {"maxReplicas": 3, "idleAfter": "10m"}}});
    installed("scaling", Needs::Pods, &patient, async |space, installation| {
        // The scale subresource decides in mode External, and the operator keeps its hands off.
        space.apply(&dedicated("scaled", "mode: External, maxReplicas: 2, replicas: 0")).await?;
        space.wait_for::<ModelDeployment>("scaled", "at zero", |model| reason(model) == "ScaledToZero").await?;
        space.cluster().kubectl(["scale", "modeldeployment/scaled", "--replicas=1", "--namespace", space.name()]).await?.ok()?;
        space.wait_for::<ModelDeployment>("scaled", "running", |model| reason(model) == "Available").await?;
        installation.draw("scaled", 2).await?;
        space.cluster().kubectl(["scale", "modeldeployment/scaled", "--replicas=0", "--namespace", space.name()]).await?.ok()?;
        space.wait_for::<ModelDeployment>("scaled", "at zero again", |model| reason(model) == "ScaledToZero").await?;
        // What somebody changes in the operator's objects is repaired, though the pool may have as many replicas.
        space.cluster().kubectl(["scale", "deployment/emulsion-pool-default", "--replicas=3", "--namespace", space.name()]).await?.ok()?;
        space.wait_for::<Deployment>("emulsion-pool-default", "repaired", |deployment| deployment.spec.replicas == Some(0)).await?;
        Ok(())
    });
}
