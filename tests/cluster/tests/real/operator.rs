use std::path::{Path, PathBuf};

use cluster::{Image, Needs, in_namespace};
use crds::ModelDeployment;
use k8s_openapi::api::apps::v1::Deployment;

use crate::shapes::available;

/// Where the operator's binary is; without it this test is left out.
const BINARY: &str = "EMULSION_OPERATOR";
const IMAGE: &str = "emulsion.test/operator";

const MODELS: &str = "
{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: first},
 spec: {modelId: shared, source: {uri: 's3://models/first'}, serving: {pooled: {}}}}
---
{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: second},
 spec: {modelId: shared, source: {uri: 's3://models/second'}, serving: {pooled: {}}}}
";

/// The reason of a model's condition `Ready`, once the operator has seen its newest generation.
fn reason(model: &ModelDeployment) -> Option<&str> {
    let status = model.status.as_ref().filter(|status| status.observed_generation == model.metadata.generation)?;
    status.conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.reason.as_str())
}

#[test]
fn our_chart_installs_an_operator_that_tells_each_model_how_it_is() {
    let Some(program) = std::env::var_os(BINARY).map(PathBuf::from) else {
        return eprintln!("skipped: {BINARY} does not say where the operator is");
    };
    in_namespace("operator", Needs::Pods, async |space| {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/emulsion");
        space.cluster().import(&Image { name: format!("{IMAGE}:1"), program: program.clone(), files: Vec::new() }).await?;
        let chart = chart.to_str().expect("the repository's path is UTF-8");
        let image = format!("operator.image.repository={IMAGE},operator.image.tag=1,operator.watchNamespace={}", space.name());
        let helm =
            async |arguments: &[&str]| space.cluster().helm(arguments.iter().copied().chain(["--namespace", space.name()])).await?.ok();
        helm(&["install", "emulsion", chart, "--set-string", &image]).await?;
        let installed = space.api::<Deployment>().list(&kube::api::ListParams::default()).await?;
        let name = installed.items.first().and_then(|deployment| deployment.metadata.name.clone()).unwrap_or_default();
        space.wait_for::<Deployment>(&name, "available", available).await?;

        space.apply(MODELS).await?;
        space.wait_for::<ModelDeployment>("first", "told that it is not imported", |model| reason(model) == Some("NotImported")).await?;
        space.wait_for::<ModelDeployment>("second", "told of its conflict", |model| reason(model) == Some("Conflict")).await?;
        helm(&["uninstall", "emulsion", "--wait"]).await?;
        Ok(())
    });
}
