use cluster::{Needs, in_namespace};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::Api;

use crate::shapes::{available, node, ready, web};

pub(crate) fn node_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[test]
fn the_pods_of_a_lost_node_run_elsewhere_until_it_is_back() {
    in_namespace("node-loss", Needs::Hosts, async |space| {
        let control = space.cluster().control()?;
        let nodes = Api::<Node>::all(space.client());
        let preferred = "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, \
                         preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node-2]}]}}]}}";
        space.apply(&web("web", 1, preferred)).await?;
        space.wait_for::<Deployment>("web", "available", available).await?;
        let first = space.pods("app=web").await?.remove(0);
        assert_eq!(node(&first), "node-2");

        control.kill_host("node-2").await?;
        space.wait_for_in(nodes.clone(), "node-2", "lost", |node| !node_ready(node)).await?;
        space
            .retry("a pod on the other node", async || {
                let pods = space.pods("app=web").await?;
                anyhow::ensure!(pods.iter().any(|pod| node(pod) == "node-1" && ready(pod)), "none");
                Ok(())
            })
            .await?;

        control.start_host("node-2").await?;
        space.wait_for_in(nodes, "node-2", "back", node_ready).await?;
        // The kubelet that is back ends what was given up in its absence, and takes new work.
        space.wait_gone::<Pod>(first.metadata.name.as_deref().unwrap_or_default()).await?;
        space.apply(&web("again", 1, "nodeName: node-2")).await?;
        space.wait_for::<Deployment>("again", "available", available).await?;
        Ok(())
    });
}

#[test]
fn pods_go_on_while_their_kubelet_is_killed() {
    in_namespace("kubelet", Needs::Hosts, async |space| {
        space.apply(&web("web", 1, "nodeName: node-1")).await?;
        space.wait_for::<Deployment>("web", "available", available).await?;
        let before = space.pods("app=web").await?.remove(0);
        space.cluster().control()?.kill_component("node-1", "kubelet").await?;
        // Only a kubelet that is back starts this one.
        space.apply(&web("after", 1, "nodeName: node-1")).await?;
        space.wait_for::<Deployment>("after", "available", available).await?;
        let after = space.pods("app=web").await?.remove(0);
        let restarts = |pod: &Pod| pod.status.as_ref()?.container_statuses.as_ref()?.first().map(|status| status.restart_count);
        assert_eq!((before.metadata.uid, restarts(&after)), (after.metadata.uid.clone(), Some(0)));
        Ok(())
    });
}
