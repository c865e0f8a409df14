use cluster::{Needs, in_namespace};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};

#[test]
fn a_watch_resumes_when_the_api_server_is_back() {
    in_namespace("api-server", Needs::Hosts, async |space| {
        let map = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{test: it}}}}}}");
        let watched = watcher(space.api::<ConfigMap>(), watcher::Config::default().labels("test=it"));
        // An error of the watch is not its end.
        let mut watched = watched.default_backoff().applied_objects().filter_map(async |object| object.ok()).boxed();
        let next = async |watched: &mut futures::stream::BoxStream<'_, ConfigMap>| {
            let next = tokio::time::timeout(cluster::DEADLINE, watched.next()).await?;
            anyhow::Ok(next.map(|map| map.name_any()).unwrap_or_default())
        };
        space.apply(&map("before")).await?;
        assert_eq!(next(&mut watched).await?, "before");

        space.cluster().control()?.stop_component("control-plane", "kube-apiserver").await?;
        let down = space.api::<ConfigMap>().get("before").await;
        assert!(down.is_err(), "the API server is down, yet it answers");
        space.cluster().control()?.start_component("control-plane", "kube-apiserver").await?;
        space.retry("the API server to be back", async || space.apply(&map("after")).await).await?;

        // A new list may show the first one again; what counts is that the new one comes.
        while next(&mut watched).await? != "after" {}
        Ok(())
    });
}

#[test]
fn what_was_stored_is_there_after_the_store_was_killed() {
    in_namespace("etcd", Needs::Hosts, async |space| {
        space.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: it}, data: {key: value}}").await?;
        space.cluster().control()?.kill_component("control-plane", "etcd").await?;
        let kept = space.retry("the store to be back", async || Ok(space.api::<ConfigMap>().get("it").await?)).await?;
        assert_eq!(kept.data.unwrap_or_default()["key"], "value");
        Ok(())
    });
}
