use cluster::{Needs, in_namespace};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;

use crate::shapes::{is, ready, serving};

/// A pod on node-1 that asks for so many.
pub(crate) fn wants_gpus(name: &str, count: u32) -> String {
    let container = serving().replacen("name: main,", &format!("name: main, resources: {{limits: {{nvidia.com/gpu: {count}}}}},"), 1);
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, \
         spec: {{nodeSelector: {{kubernetes.io/hostname: node-1}}, terminationGracePeriodSeconds: 1, containers: [{container}]}}}}"
    )
}

#[test]
fn devices_are_counted_handed_out_once_and_returned() {
    in_namespace("devices", Needs::Hosts, async |space| {
        let offers = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("nvidia.com/gpu").cloned());
        space
            .wait_for_in(Api::<Node>::all(space.client()), "node-1", "offering devices", |node| {
                offers(node).is_some_and(|count| count.0 == "2")
            })
            .await?;
        space.apply(&wants_gpus("first", 2)).await?;
        space.wait_for::<Pod>("first", "ready", ready).await?;
        let environment = space.port_forward("first", 8080).await?.get("/environment?name=NVIDIA_VISIBLE_DEVICES").await?;
        let mut devices: Vec<_> = environment.trim().split(',').collect();
        devices.sort_unstable();
        assert_eq!(devices, ["device-0", "device-1"]);

        space.apply(&wants_gpus("second", 1)).await?;
        let unschedulable = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.reason.as_deref() == Some("Unschedulable"))
        };
        let second = space.wait_for::<Pod>("second", "told that no device is left", unschedulable).await?;
        assert!(!is(&second, "PodScheduled"));
        space.kill_pod("first").await?;
        space.wait_for::<Pod>("second", "ready", ready).await?;
        Ok(())
    });
}
