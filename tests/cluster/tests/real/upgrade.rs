use std::{path::Path, process::Command};

use anyhow::Context as _;
use cluster::{Needs, Space, in_namespace};
use crds::ModelDeployment;
use k8s_openapi::{api::apps::v1::Deployment, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    installation::{Installation, installed, lacks, merged, reason, repository},
    shapes::available,
    stores::Stores,
};

/// The chart as the commit before this one has it; none where its history is not here.
fn chart_of_parent(folder: &Path) -> Option<String> {
    let archive = folder.join("chart.tar");
    let made = Command::new("git")
        .arg("-C")
        .arg(repository())
        .args(["archive", "--output"])
        .arg(&archive)
        .args(["HEAD~1", "charts/emulsion"])
        .status();
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder).status();
    let succeeded = made.is_ok_and(|status| status.success()) && unpacked.is_ok_and(|status| status.success());
    succeeded.then(|| folder.join("charts/emulsion").to_str().map(str::to_owned)).flatten()
}

/// The first command of docs/operations.md.
async fn apply_definitions(space: &Space) -> anyhow::Result<()> {
    let definitions = repository().join("charts/emulsion/crds/").to_str().unwrap_or_default().to_owned();
    space.cluster().kubectl(["apply", "--server-side", "--force-conflicts", "-f", &definitions]).await?.ok().map(drop)
}

/// As if nobody but helm had ever brought a chart's definitions: other tests have, and helm would not take them from those.
async fn give_definitions_to_helm(space: &Space, chart: &str) -> anyhow::Result<()> {
    let definitions = format!("{chart}/crds/");
    let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=helm", "-f", &definitions];
    space.cluster().kubectl(apply).await?.ok().map(drop)
}

/// Both commands of docs/operations.md, with another image.
async fn upgrade(space: &Space) -> anyhow::Result<()> {
    apply_definitions(space).await?;
    let chart = repository().join("charts/emulsion").to_str().unwrap_or_default().to_owned();
    let upgrade = ["upgrade", "emulsion", &chart, "--namespace", space.name(), "--reset-then-reuse-values", "--set-string", "images.tag=2"];
    space.cluster().helm(upgrade).await?.ok().map(drop)
}

/// Whether all pods are of the second image and take work.
fn renewed(deployment: &Deployment) -> bool {
    let pod = deployment.spec.template.spec.as_ref();
    let image = pod.and_then(|pod| pod.containers.first()?.image.as_deref()).unwrap_or_default();
    let updated = deployment.status.as_ref().and_then(|status| status.updated_replicas);
    image.ends_with(":2") && available(deployment) && updated == deployment.spec.replicas
}

/// Definitions of a later version allow what today's operator does not know: such a model says so, and keeps no other one from being served.
#[test]
fn a_model_of_a_later_version_says_that_it_is_not_understood_and_stops_no_other() {
    installed("later", Needs::Hosts, &json!({}), async |space, installation| {
        // As helm brings them, so that another chart can be installed afterwards.
        let definitions = Api::<CustomResourceDefinition>::all(space.client());
        let today = crds::definitions().iter().find(|definition| definition.spec.names.kind == "ModelDeployment");
        let today = serde_json::to_value(today.context("it is one of ours")?)?;
        let mut later = today.clone();
        let family = later.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/family/enum");
        family.and_then(|family| family.as_array_mut()).context("families are listed")?.push(json!("sd9"));
        let by_helm = PatchParams::apply("helm").force();
        definitions.patch("modeldeployments.emulsion.dev", &by_helm, &Patch::Apply(later)).await?;
        let told = async {
            let model = |name: &str, family: &str| {
                json!({"apiVersion": "emulsion.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name},
                       "spec": {"source": {"uri": "file:///models/demo"}, "family": family}})
                .to_string()
            };
            // Until the changed definition is in force, it is refused.
            space.retry("a later model to be taken", async || space.apply(&model("later", "sd9")).await).await?;
            space
                .retry("the later model to say why it is not served", async || {
                    let get = ["get", "modeldeployment", "later", "--output=jsonpath={.status.conditions}", "--namespace", space.name()];
                    let said = space.cluster().kubectl(get).await?.ok()?;
                    anyhow::ensure!(said.contains("\"Invalid\"") && said.contains("this operator cannot read it"), "{said}");
                    Ok(())
                })
                .await?;
            space.apply(&model("today", "sd15")).await?;
            space.wait_for::<ModelDeployment>("today", "ready", |model| reason(model) == "Available").await?;
            space.cluster().kubectl(["delete", "modeldeployment", "later", "--namespace", space.name()]).await?.ok()?;
            installation.draw("demo", 2).await
        };
        let told = told.await;
        // Other tests install on them, too, whatever became of this one.
        definitions.patch("modeldeployments.emulsion.dev", &by_helm, &Patch::Apply(today)).await?;
        told
    });
}

#[test]
fn an_upgrade_from_the_parent_commits_chart_keeps_serving() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(parent) = chart_of_parent(folder.path()) else { return eprintln!("skipped: the commit before this one is not here") };
    // Definitions belong to no namespace.
    in_namespace("upgrade", Needs::Hosts, async |space| {
        let Some(stores) = Stores::make(space).await? else { return Ok(()) };
        let more = json!({"operator": {"replicas": 2}, "router": {"shutdownDelay": "10s"}, "pools": {"default": {"minReplicas": 1}}});
        give_definitions_to_helm(space, &parent).await?;
        let installation = Installation::of_chart(space, &parent, &merged(stores.values(2), &more)).await?;
        // As if an older chart had brought them, which helm never changes.
        let definitions = Api::<CustomResourceDefinition>::all(space.client());
        let older =
            json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "of an older version"}]);
        let by_helm = PatchParams { field_manager: Some("helm".to_owned()), ..PatchParams::default() };
        definitions.patch("tenantplans.emulsion.dev", &by_helm, &Patch::<()>::Json(serde_json::from_value(older)?)).await?;

        installation.import_images_as("2").await?;
        let upgraded = installation
            .under_load(async {
                // Every pod of ours is made anew with another image.
                upgrade(space).await?;
                for deployment in ["emulsion-operator", "emulsion-router", "emulsion-pool-default"] {
                    space.wait_for::<Deployment>(deployment, "renewed", renewed).await?;
                }
                Ok(())
            })
            .await;
        // Other tests install on them, too, whatever became of this one.
        apply_definitions(space).await?;
        upgraded?;
        let current = definitions.get("tenantplans.emulsion.dev").await?;
        anyhow::ensure!(!serde_json::to_string(&current)?.contains("of an older version"), "the definitions were renewed");
        installation.draw("demo", 4).await?;
        installation.uninstall().await
    });
}
