use cluster::{Needs, in_namespace};
use k8s_openapi::api::apps::v1::Deployment;

use crate::shapes::{available, web};

#[test]
fn an_autoscaler_adds_pods_for_what_they_use() {
    in_namespace("metrics", Needs::Hosts, async |space| {
        space.cluster().control()?.start_metrics().await?;
        space.apply(&web("web", 1, "").replacen("name: main,", "name: main, resources: {requests: {cpu: 20m}},", 1)).await?;
        space.wait_for::<Deployment>("web", "available", available).await?;
        space
            .apply(
                "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web}, spec: {minReplicas: 1, maxReplicas: 2, \
                 scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, \
                 target: {type: Utilization, averageUtilization: 50}}}]}}",
            )
            .await?;
        let name = space.pods("app=web").await?.remove(0).metadata.name.unwrap_or_default();
        let busy = space.port_forward(&name, 8080).await?;
        let burning = async {
            loop {
                // One call after the other keeps it busy until the test has seen enough.
                busy.call("GET", "/burn?for=2s").await.ok();
            }
        };
        let scaled = space.wait_for::<Deployment>("web", "scaled to two", |web| web.spec.replicas == Some(2));
        tokio::select! {
            scaled = scaled => scaled.map(drop),
            () = burning => Ok(()),
        }
    });
}
