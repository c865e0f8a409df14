use cluster::{Needs, in_namespace};
use k8s_openapi::api::core::v1::Pod;

use crate::shapes::{container, phase};

#[test]
fn a_container_over_its_limit_is_killed_and_says_why() {
    in_namespace("memory", Needs::Pods, async |space| {
        let hungry = container("[allocate, '268435456']").replacen("name: main,", "name: main, resources: {limits: {memory: 64Mi}},", 1);
        space
            .apply(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: hungry}}, spec: {{restartPolicy: Never, containers: [{hungry}]}}}}"
            ))
            .await?;
        let killed = space.wait_for::<Pod>("hungry", "ended", |pod| phase(pod) == "Failed").await?;
        let status = killed.status.and_then(|status| status.container_statuses).and_then(|mut statuses| statuses.pop());
        let ended = status.and_then(|status| status.state).and_then(|state| state.terminated).expect("its container has ended");
        assert_eq!((ended.reason.as_deref(), ended.exit_code), (Some("OOMKilled"), 137));
        Ok(())
    });
}
