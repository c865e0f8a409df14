use cluster::{Needs, in_namespace};
use k8s_openapi::api::core::v1::Pod;

use crate::shapes::{phase, pod};

#[test]
fn the_restricted_level_takes_what_has_no_rights_and_refuses_root() {
    in_namespace("restricted", Needs::Pods, async |space| {
        let level = "pod-security.kubernetes.io/enforce: restricted";
        space.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {}, labels: {{{level}}}}}}}", space.name())).await?;

        let plain =
            "{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {containers: [{name: main, image: 'emulsion.test/pod:1'}]}}";
        let refused = space.apply(plain).await.expect_err("it may be root");
        assert!(format!("{refused:#}").contains("violates PodSecurity"), "{refused:#}");

        space.apply(&pod("good", "[write, /root-is-read-only]", "restartPolicy: Never")).await?;
        space.wait_for::<Pod>("good", "ended", |pod| phase(pod) == "Failed").await?;
        let said = space.logs("good").await?;
        assert!(said.contains("user 65532"), "the image's own user is none with rights: {said}");
        assert!(said.contains("read-only file system"), "{said}");
        Ok(())
    });
}
