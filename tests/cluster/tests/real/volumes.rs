use cluster::{Needs, in_namespace};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::shapes::{phase, pod};

#[test]
fn what_one_pod_wrote_is_there_for_the_next() {
    in_namespace("volumes", Needs::Hosts, async |space| {
        space.static_volume("data", "node-1", "64Mi").await?;
        let with_volume = |name: &str, arguments: &str| {
            pod(name, arguments, "restartPolicy: Never, volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]").replacen(
                "name: main,",
                "name: main, volumeMounts: [{name: data, mountPath: /data}],",
                1,
            )
        };
        space.apply(&with_volume("writer", "[write, /data/file]")).await?;
        space.wait_for::<Pod>("writer", "ended", |pod| phase(pod) == "Succeeded").await?;
        space.apply(&with_volume("reader", "[read, /data/file]")).await?;
        space.wait_for::<Pod>("reader", "ended", |pod| phase(pod) == "Succeeded").await?;
        assert_eq!(space.logs("reader").await?, "written\n");
        let claim = space.api::<PersistentVolumeClaim>().get("data").await?;
        assert_eq!(claim.status.and_then(|status| status.phase).as_deref(), Some("Bound"));
        Ok(())
    });
}
