use anyhow::Context as _;
use cluster::{Needs, Space, in_namespace};
use crds::ModelDeployment;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Client, ResourceExt as _};
use operator::{controller, metrics::Metrics};

use super::{
    Room,
    interference::{Interference, Plan},
};
use crate::installation::reason;

const POOL: &str = "emulsion-pool-default";
/// One replica runs because it must.
const RUNNING: &str = "
- {apiVersion: emulsion.dev/v1alpha1, kind: RuntimePool, metadata: {name: default}, spec: {minReplicas: 1}}
";
/// Nothing needs it any more, but it may go only in ten minutes.
const WAITING: &str = "
- {apiVersion: emulsion.dev/v1alpha1, kind: RuntimePool, metadata: {name: default}, spec: {minReplicas: 0, idleAfter: 10m}}
";
/// By which it is seen that an operator works.
const SIGN: &str = "
- {apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: sign}, spec: {source: {uri: 'file:///models/demo'}}}
";

/// Runs an operator until `done`.
async fn operate<T>(room: &Room, client: Client, done: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = done => done,
        () = controller::run(client, room.settings(), Metrics::new()?) => anyhow::bail!("the operator ended"),
    }
}

/// Waits until the pool's Deployment is as wanted.
async fn wait_for_pool(space: &Space, room: &Room, what: &str, wanted: impl Fn(&Deployment) -> bool) -> anyhow::Result<Deployment> {
    space.wait_for_in(room.api::<Deployment>(), POOL, what, wanted).await
}

#[test]
fn an_operator_that_begins_stops_nothing_before_it_knows_what_runs() {
    in_namespace("beginning", Needs::Api, async |space| {
        for definition in crds::definitions() {
            space.apply(&serde_yaml::to_string(&definition)?).await?;
        }
        let room = Room::open(space.cluster().client().await?, format!("{}-room", space.name())).await?;
        let first = async {
            room.apply(space, RUNNING).await?;
            wait_for_pool(space, &room, "running", |pool| pool.spec.replicas == Some(1)).await?;
            room.apply(space, WAITING).await?;
            let noted = |pool: &Deployment| pool.annotations().get("emulsion.dev/scale").is_some_and(|scale| scale.contains("shrink"));
            wait_for_pool(space, &room, "waiting", noted).await
        };
        let before = operate(&room, space.cluster().client().await?, first).await.context("the first operator")?;
        let late = Interference::new(Plan::LateDeployments).client(space.cluster().client().await?);
        let second = async {
            room.apply(space, SIGN).await?;
            let ready = |model: &ModelDeployment| reason(model) == "Available";
            space.wait_for_in(room.api::<ModelDeployment>(), "sign", "ready", ready).await?;
            wait_for_pool(space, &room, "there", |_| true).await
        };
        let after = operate(&room, late, second).await.context("the second operator")?;
        assert_eq!(after.spec.replicas, Some(1), "what ran was stopped");
        assert_eq!(after.metadata.generation, before.metadata.generation, "nothing was changed meanwhile");
        room.close().await
    });
}
