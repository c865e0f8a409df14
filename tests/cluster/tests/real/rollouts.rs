use cluster::{Needs, Space, in_namespace};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use serde_json::json;

use crate::{
    installation::{Installation, lacks, merged},
    shapes::{available, ready},
    stores::Stores,
};

#[test]
fn no_call_fails_while_each_deployment_is_rolled_out() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    in_namespace("rollouts", Needs::Pods, async |space| {
        let Some(stores) = Stores::make(space).await? else { return Ok(()) };
        let more = json!({
            "operator": {"replicas": 2},
            "router": {"shutdownDelay": "10s"},
            "pools": {"default": {"minReplicas": 2, "maxReplicas": 2}},
        });
        let installation = Installation::new(space, &merged(stores.values(2), &more)).await?;
        space.wait_for::<Deployment>("emulsion-pool-default", "available", available).await?;

        installation
            .under_load(async {
                let all = [("emulsion-router", "router"), ("emulsion-pool-default", "replica"), ("emulsion-operator", "operator")];
                for (deployment, component) in all {
                    roll_out(space, deployment, component).await?;
                }
                Ok(())
            })
            .await?;
        // Whoever leads now still does its work.
        space.cluster().kubectl(["delete", "deployment", "emulsion-pool-default", "--namespace", space.name()]).await?.ok()?;
        space.wait_for::<Deployment>("emulsion-pool-default", "made anew", |_| true).await?;
        installation.uninstall().await
    });
}

/// Replaces every pod of a Deployment, until none of the old ones is left.
async fn roll_out(space: &Space, deployment: &str, component: &str) -> anyhow::Result<()> {
    let pods = async || space.pods(&format!("app.kubernetes.io/component={component}")).await;
    let uids = |pods: &[Pod]| pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect::<Vec<_>>();
    let before = uids(&pods().await?);
    let name = format!("deployment/{deployment}");
    space.cluster().kubectl(["rollout", "restart", &name, "--namespace", space.name()]).await?.ok()?;
    space
        .retry(&format!("all pods of {deployment} to be replaced"), async || {
            let now = pods().await?;
            let old = uids(&now).into_iter().filter(|uid| before.contains(uid)).count();
            anyhow::ensure!(old == 0 && now.len() == before.len() && now.iter().all(ready), "{old} old ones of {}", now.len());
            Ok(())
        })
        .await
}
