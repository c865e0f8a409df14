use anyhow::Context as _;
use cluster::Needs;
use crds::ModelDeployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;

use crate::{
    installation::{dedicated, installed, reason, replicas, working},
    shapes::ready,
};

/// Kubernetes' annotation.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[test]
fn of_two_replicas_the_idle_one_is_stopped_and_the_other_finishes() {
    installed("shrinking", Needs::Pods, &json!({}), async |space, installation| {
        let scaled = |replicas: u32| dedicated("own", &format!("mode: External, maxReplicas: 2, replicas: {replicas}"));
        space.apply(&scaled(2)).await?;
        let both =
            |model: &ModelDeployment| reason(model) == "Available" && model.status.as_ref().and_then(|status| status.replicas) == Some(2);
        space.wait_for::<ModelDeployment>("own", "running", both).await?;
        space
            .retry("both replicas to be ready", async || {
                anyhow::ensure!(replicas(space).await?.iter().filter(|pod| ready(pod)).count() == 2, "not yet");
                Ok(())
            })
            .await?;
        let costs = |pods: &[Pod]| pods.iter().filter_map(|pod| pod.annotations().get(COST).cloned()).collect::<Vec<_>>();
        assert_eq!(costs(&replicas(space).await?), Vec::<String>::new(), "nothing is written while nothing is to be stopped");

        let long = json!({"model": "own", "prompt": "a large red circle", "steps": 60, "size": "256x256", "response_format": "url"});
        let drawing = async {
            let answer = installation.post("/v1/images/generations", &long).await?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
            anyhow::Ok(())
        };
        let shrinking = async {
            let busy = space.retry("a replica that works", async || working(space).await?.pop().context("none works")).await?;
            space.apply(&scaled(1)).await?;
            space
                .retry("one replica to be left", async || {
                    let left: Vec<Pod> =
                        replicas(space).await?.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
                    anyhow::ensure!(left.len() == 1, "{} are left", left.len());
                    anyhow::ensure!(left[0].uid() == busy.uid(), "the busy one was stopped");
                    let cost: i32 = costs(&left).first().context("it was not marked")?.parse()?;
                    anyhow::ensure!(cost >= 1000, "{cost}");
                    Ok(())
                })
                .await
        };
        tokio::try_join!(drawing, shrinking).map(drop)
    });
}
