use anyhow::Context as _;
use cluster::{Needs, Space};
use crds::ModelDeployment;
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    installation::{installed, reason, replicas},
    shapes::ready,
};

/// Room for one of the two models: each holds a little less than 40 MB.
const ROOM: &str = "56Mi";
const ROOM_BYTES: f64 = 56.0 * 1024.0 * 1024.0;

/// A figure of the only replica.
async fn figure(space: &Space, name: &str) -> anyhow::Result<f64> {
    let pod = replicas(space).await?.into_iter().find(ready).context("no replica runs")?;
    let figures = space.port_forward(&pod.name_any(), 8080).await?.get("/metrics").await?;
    let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).with_context(|| format!("no {name}"))?;
    Ok(line.parse()?)
}

#[test]
fn a_pooled_model_gives_way_to_another_and_draws_again() {
    let values = json!({"pools": {"default": {"cache": {"host": ROOM}}}});
    installed("pressure", Needs::Pods, &values, async |space, installation| {
        let models = "{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: ring}, spec: {kind: lora, family: sd15, \
                      source: {uri: 'file:///models/demo-lora/ring.safetensors'}}}\n---\n\
                      {apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: other}, spec: {family: sd15, \
                      source: {uri: 'file:///models/demo'}, components: {adapters: [{model: ring}]}, defaults: {width: 64, height: 64}, \
                      limits: {minWidth: 32, minHeight: 32}}}";
        space.apply(models).await?;
        space.wait_for::<ModelDeployment>("other", "ready", |model| reason(model) == "Available").await?;
        let loads = async || figure(space, "emulsion_runtime_load_seconds_count").await;
        for (model, expected) in [("demo", 1.0), ("demo", 1.0), ("other", 2.0), ("demo", 3.0), ("other", 4.0)] {
            installation.draw(model, 4).await?;
            assert_eq!(loads().await?, expected, "{model}: each is loaded anew once the other one had its place");
            let resident = figure(space, "emulsion_runtime_resident_bytes").await?;
            assert!(resident > 0.0 && resident <= ROOM_BYTES, "{resident}");
        }
        // Neither has an object of its own.
        let deployments =
            space.cluster().kubectl(["get", "deployments,services,jobs", "--output", "name", "--namespace", space.name()]).await?.ok()?;
        assert!(!deployments.contains("other") && !deployments.contains("demo"), "{deployments}");
        Ok(())
    });
}
