use cluster::{Image, Needs, in_namespace};
use k8s_openapi::api::core::v1::Pod;

use crate::shapes::{phase, pod};

/// Why the first container waits.
fn waiting(pod: &Pod) -> Option<(&str, &str)> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref()?))
}

#[test]
fn an_image_is_pulled_from_the_registry() {
    in_namespace("pull", Needs::Hosts, async |space| {
        let cluster = space.cluster();
        let program = std::env::var("EMULSION_CLUSTER").map(|path| std::path::PathBuf::from(path).with_file_name("cluster-pod"))?;
        cluster.push(&Image { name: "unused:1".to_owned(), program, files: Vec::new() }, "tests/pulled:1").await?;
        let image = format!("{}/tests/pulled:1", cluster.registry()?);
        let pulling = pod("it", "[print, pulled]", "restartPolicy: Never")
            .replace("emulsion.test/pod:1", &image)
            .replace("imagePullPolicy: IfNotPresent", "imagePullPolicy: Always");
        space.apply(&pulling).await?;
        space.wait_for::<Pod>("it", "ended", |pod| phase(pod) == "Succeeded").await?;
        assert_eq!(space.logs("it").await?, "pulled\n");
        Ok(())
    });
}

#[test]
fn an_image_that_the_registry_does_not_have_is_an_error_that_names_it() {
    in_namespace("pull-error", Needs::Hosts, async |space| {
        let image = format!("{}/tests/missing:1", space.cluster().registry()?);
        space.apply(&pod("it", "[print, never]", "").replace("emulsion.test/pod:1", &image)).await?;
        let refused = |pod: &Pod| waiting(pod).is_some_and(|(reason, message)| reason == "ErrImagePull" && message.contains("not found"));
        space.wait_for::<Pod>("it", "refused", refused).await?;
        let backing_off = |pod: &Pod| waiting(pod).is_some_and(|(reason, _)| reason == "ImagePullBackOff");
        let it = space.wait_for::<Pod>("it", "backing off", backing_off).await?;
        assert!(waiting(&it).is_some_and(|(_, message)| message.contains(&image)), "{it:?}");
        Ok(())
    });
}
