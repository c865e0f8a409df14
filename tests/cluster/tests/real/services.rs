use cluster::{Needs, in_namespace};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{Api, api::ListParams};

use crate::shapes::{available, node, ready, server, web};

#[test]
fn a_service_answers_by_name_from_another_node() {
    in_namespace("services", Needs::Hosts, async |space| {
        space.apply(&web("web", 1, "nodeName: node-1")).await?;
        space.apply(&server("caller", "nodeName: node-2")).await?;
        space.wait_for::<Deployment>("web", "available", available).await?;
        let caller = space.wait_for::<Pod>("caller", "ready", ready).await?;
        let served_by = space.pods("app=web").await?.remove(0);
        assert_eq!((node(&served_by), node(&caller)), ("node-1", "node-2"));

        let forward = space.port_forward("caller", 8080).await?;
        let url = format!("/fetch?url=http://web.{}.svc.cluster.local", space.name());
        let answer = space.retry("the Service's rules to reach the other node", async || forward.get(&url).await).await?;
        assert_eq!(Some(answer.trim()), served_by.metadata.name.as_deref(), "the answer is the name of the pod behind the Service");
        Ok(())
    });
}

#[test]
fn a_pod_that_is_not_ready_gets_no_calls() {
    in_namespace("readiness", Needs::Pods, async |space| {
        space.apply(&web("web", 1, "")).await?;
        space.wait_for::<Deployment>("web", "available", available).await?;
        let name = space.pods("app=web").await?.remove(0).metadata.name.unwrap_or_default();
        assert_eq!(ready_endpoints(&space.api()).await?, 1);

        space.port_forward(&name, 8080).await?.call("PUT", "/unready").await?;
        space.wait_for::<Pod>(&name, "unready", |pod| !ready(pod)).await?;
        space
            .retry("the endpoint to go", async || {
                anyhow::ensure!(ready_endpoints(&space.api()).await? == 0, "it is still there");
                Ok(())
            })
            .await
    });
}

async fn ready_endpoints(slices: &Api<EndpointSlice>) -> anyhow::Result<usize> {
    let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await?;
    let endpoints = slices.items.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    Ok(endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))).count())
}
