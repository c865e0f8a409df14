use cluster::{Needs, Space};
use crds::ModelDeployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::{
    devices::wants_gpus,
    installation::{condition, dedicated, installed, reason},
    shapes::{node, ready},
};

/// The nodes of a model's replicas, once all have one.
async fn nodes_of(space: &Space, model: &str, count: usize) -> anyhow::Result<Vec<String>> {
    space
        .retry(&format!("{count} replicas of {model} to have nodes"), async || {
            let pods = space.pods(&format!("app.kubernetes.io/instance=emulsion-model-{model}")).await?;
            let nodes: Vec<String> = pods.iter().map(|pod| node(pod).to_owned()).filter(|node| !node.is_empty()).collect();
            anyhow::ensure!(nodes.len() == count, "{nodes:?}");
            Ok(nodes)
        })
        .await
}

#[test]
fn replicas_with_gpus_go_where_gpus_are_and_others_leave_them_alone() {
    installed("gpus", Needs::Hosts, &json!({}), async |space, installation| {
        // All of node-1's are taken.
        space.apply(&wants_gpus("holder", 2)).await?;
        space.wait_for::<Pod>("holder", "ready", ready).await?;
        let with_gpu = |replicas: u32| format!("minReplicas: {replicas}, maxReplicas: 2, resources: {{limits: {{'nvidia.com/gpu': 1}}}}");
        space.apply(&dedicated("drawn", &with_gpu(2))).await?;
        assert_eq!(nodes_of(space, "drawn", 2).await?, ["node-2", "node-2"]);
        // There is no GPU behind the device: the replica says so, and the model with it.
        let failing = |model: &ModelDeployment| {
            condition(model, "Ready").is_some_and(|ready| ready.reason == "ReplicasFailing" && ready.message.contains("cuda"))
        };
        space.wait_for::<ModelDeployment>("drawn", "told that its device cannot be opened", failing).await?;
        // None is left for one more.
        space.apply(&dedicated("late", &with_gpu(1))).await?;
        let late =
            space.wait_for::<ModelDeployment>("late", "told that no node takes it", |model| reason(model) == "ReplicasFailing").await?;
        let told = condition(&late, "Ready").map(|condition| condition.message.clone()).unwrap_or_default();
        assert!(told.contains("Insufficient nvidia.com/gpu"), "{told}");
        // Who asks for none needs none.
        space.apply(&dedicated("plain", "")).await?;
        space.wait_for::<ModelDeployment>("plain", "asleep", |model| reason(model) == "Asleep").await?;
        // The router learns of it by a watch of its own.
        space.retry("an image", async || installation.draw("plain", 4).await).await?;
        space.kill_pod("holder").await?;
        assert_eq!(nodes_of(space, "late", 1).await?, ["node-1"]);
        Ok(())
    });
}
