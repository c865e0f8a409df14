use cluster::{Needs, in_namespace};
use k8s_openapi::api::core::v1::Pod;

use crate::shapes::{phase, pod, ready, server};

#[test]
fn a_command_runs_in_a_pod_and_its_end_is_told() {
    in_namespace("exec", Needs::Pods, async |space| {
        space.apply(&server("it", "")).await?;
        space.wait_for::<Pod>("it", "ready", ready).await?;
        assert_eq!(space.exec("it", &["/cluster-pod", "print", "from inside"]).await?, "from inside\n");
        let failed = space.exec("it", &["/cluster-pod", "no such command"]).await.expect_err("it ends with 1");
        assert!(format!("{failed:#}").contains("exit code 1"), "{failed:#}");
        Ok(())
    });
}

#[test]
fn what_a_pod_printed_can_be_read_when_it_has_ended() {
    in_namespace("logs", Needs::Pods, async |space| {
        space.apply(&pod("it", "[print, 'a line']", "restartPolicy: Never")).await?;
        space.wait_for::<Pod>("it", "ended", |pod| phase(pod) == "Succeeded").await?;
        assert_eq!(space.logs("it").await?, "a line\n");
        Ok(())
    });
}

#[test]
fn a_port_of_a_pod_is_reached_through_the_api_server_and_directly() {
    in_namespace("port-forward", Needs::Hosts, async |space| {
        space.apply(&server("it", "")).await?;
        let it = space.wait_for::<Pod>("it", "ready", ready).await?;
        assert_eq!(space.port_forward("it", 8080).await?.get("/").await?, "it\n");
        let address = format!("{}:8080", crate::shapes::address(&it));
        assert_eq!(space.cluster().control()?.forward("control-plane", &address).await?.get("/").await?, "it\n");
        Ok(())
    });
}
