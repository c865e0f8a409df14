//! The operator, run in this process against the real API server, ended at each of its writes, and with writes and events that get lost:
//! whatever happens, the cluster comes to the same state.

mod beginning; // what a new operator does not know yet it leaves alone
mod interference;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use cluster::{DEADLINE, Needs, Space, in_namespace};
use crds::{ModelDeployment, RuntimePool};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{Namespace, Secret},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use operator::{context::Settings, controller, metrics::Metrics};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use self::interference::{Interference, Plan};

/// Runs at a time.
const CONCURRENCY: usize = 16;
/// More writes than any run needs: an operator that does not come to rest fails the test.
const MOST_WRITES: usize = 100;
/// Runs in which writes and events are lost.
const CHAOTIC_RUNS: u64 = 16;
/// The kinds of objects that a set of replicas consists of.
const OBJECTS: [&str; 4] = ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Secret"];
/// And those that an import does.
const IMPORT_OBJECTS: [&str; 2] = ["Job", "Secret"];
/// Nothing runs: how imports end is no part of this.
const NO_PODS: &str = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: none}, spec: {hard: {pods: '0'}}}";
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);

const DECLARED: &str = "
- {apiVersion: emulsion.dev/v1alpha1, kind: RuntimePool, metadata: {name: default}, spec: {maxReplicas: 2}}
- apiVersion: emulsion.dev/v1alpha1
  kind: ModelDeployment
  metadata: {name: own}
  spec: {source: {uri: 'file:///models/demo'}, serving: {dedicated: {maxReplicas: 2}}}
- {apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: pooled}, spec: {source: {uri: 'file:///models/demo'}}}
- apiVersion: emulsion.dev/v1alpha1
  kind: ModelDeployment
  metadata: {name: solo}
  spec: {source: {uri: 'file:///models/demo'}, serving: {dedicated: {maxReplicas: 4, idleAfter: 1m}}}
- apiVersion: emulsion.dev/v1alpha1
  kind: ModelDeployment
  metadata: {name: twin}
  spec: {modelId: own, source: {uri: 'file:///models/demo'}, serving: {dedicated: {mode: External, replicas: 0}}}
- {apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: elsewhere}, spec: {source: {uri: 'hf://acme/one'}}}
";
/// The pool gets another size, one model goes from replicas of its own to a pool, another to a pool that is not there, a third is imported from
/// elsewhere.
const CHANGED: &str = "
- {apiVersion: emulsion.dev/v1alpha1, kind: RuntimePool, metadata: {name: default}, spec: {maxReplicas: 3, cache: {disk: 20Gi}}}
- {apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: solo}, spec: {source: {uri: 'file:///models/demo'}}}
- apiVersion: emulsion.dev/v1alpha1
  kind: ModelDeployment
  metadata: {name: pooled}
  spec: {source: {uri: 'file:///models/demo'}, serving: {pooled: {pool: nowhere}}}
- {apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: elsewhere}, spec: {source: {uri: 'hf://acme/two'}}}
";
/// What the imports are called, after a digest of what is declared.
const IMPORT_ONE: &str = "emulsion-import-elsewhere-daeedcb4";
const IMPORT_TWO: &str = "emulsion-import-elsewhere-4cd91d29";
/// With it the contested id becomes free.
const DELETED: &str = "own";

/// All that is kept of one moment, by kind and name.
type State = BTreeMap<String, Value>;

/// What people see of a state: which objects there are, and why each custom resource stands as it does.
#[derive(Debug, PartialEq)]
struct Summary {
    objects: BTreeSet<String>,
    reasons: BTreeMap<String, String>,
}

fn declared() -> Summary {
    Summary::new(
        &["emulsion-model-own", "emulsion-model-solo", "emulsion-pool-default"],
        IMPORT_ONE,
        &[
            ("default", "Asleep"),
            ("elsewhere", "Importing"),
            ("own", "Asleep"),
            ("pooled", "Available"),
            ("solo", "Asleep"),
            ("twin", "Conflict"),
        ],
    )
}

fn changed() -> Summary {
    Summary::new(
        &["emulsion-model-twin", "emulsion-pool-default"],
        IMPORT_TWO,
        &[("default", "Asleep"), ("elsewhere", "Importing"), ("pooled", "PoolUnknown"), ("solo", "Available"), ("twin", "ScaledToZero")],
    )
}

impl Summary {
    fn new(sets: &[&str], import: &str, reasons: &[(&str, &str)]) -> Self {
        let of_set = |set: &&str| OBJECTS.map(|kind| format!("{kind} {set}"));
        let of_import = IMPORT_OBJECTS.map(|kind| format!("{kind} {import}"));
        let text = |(name, reason): &(&str, &str)| ((*name).to_owned(), (*reason).to_owned());
        Self { objects: sets.iter().flat_map(of_set).chain(of_import).collect(), reasons: reasons.iter().map(text).collect() }
    }

    fn of(state: &State) -> Self {
        let mut summary = Self { objects: BTreeSet::new(), reasons: BTreeMap::new() };
        for (name, object) in state {
            let Some(conditions) = object["conditions"].as_array() else {
                summary.objects.insert(name.clone());
                continue;
            };
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready").filter(|_| object["isObserved"] == true);
            let reason = ready.and_then(|ready| ready["reason"].as_str()).unwrap_or_default().to_owned();
            summary.reasons.insert(name.rsplit(' ').next().unwrap_or_default().to_owned(), reason);
        }
        summary
    }
}

/// A namespace with an operator of its own.
struct Room {
    client: Client,
    name: String,
}

impl Room {
    async fn open(client: Client, name: String) -> anyhow::Result<Self> {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(Self { client, name })
    }

    async fn close(self) -> anyhow::Result<()> {
        Api::<Namespace>::all(self.client).delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Declares, lets the operator work until the state is as wanted, changes, and waits again. Returns both states.
    async fn run(&self, space: &Space, interference: &Arc<Interference>, wanted: &Wanted<'_>) -> anyhow::Result<[State; 2]> {
        let scenario = async {
            space.apply(&NO_PODS.replace("metadata: {", &format!("metadata: {{namespace: {}, ", self.name))).await?;
            self.apply(space, DECLARED).await?;
            let first = self.wait_for(wanted, 0).await?;
            self.apply(space, CHANGED).await?;
            self.api::<ModelDeployment>().delete(DELETED, &DeleteParams::default()).await?;
            let second = self.wait_for(wanted, 1).await?;
            anyhow::Ok([first, second])
        };
        tokio::select! {
            states = scenario => states,
            ended = self.operate(space, interference) => Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("the operator ended"))),
        }
    }

    /// An operator whose process ends where the plan says so, and another that takes over.
    async fn operate(&self, space: &Space, interference: &Arc<Interference>) -> anyhow::Result<()> {
        let settings = self.settings();
        let watched = interference.client(space.cluster().client().await?);
        tokio::select! {
            () = controller::run(watched, settings.clone(), Metrics::new()?) => {}
            () = interference.crashed() => {}
        }
        controller::run(space.cluster().client().await?, settings, Metrics::new()?).await;
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            namespace: self.name.clone(),
            watched: Some(self.name.clone()),
            installation_token: "a token that only this test knows".to_owned(),
            runtime_image: "emulsion.test/runtime:1".to_owned(),
            runtime_gpu_image: None,
            monitoring_namespace: None,
            safety_checker: None,
            router_url: "http://router.test".to_owned(),
            import_allow_networks: Vec::new(),
            import_allow_hosts: Vec::new(),
        }
    }

    async fn apply(&self, space: &Space, objects: &str) -> anyhow::Result<()> {
        let objects: Vec<Value> = serde_yaml::from_str(objects)?;
        for mut object in objects {
            object["metadata"]["namespace"] = json!(self.name);
            space.apply(&object.to_string()).await?;
        }
        Ok(())
    }

    async fn wait_for(&self, wanted: &Wanted<'_>, phase: usize) -> anyhow::Result<State> {
        let started = Instant::now();
        loop {
            let state = self.state().await?;
            let Some(different) = wanted.different(&state, phase) else { return Ok(state) };
            anyhow::ensure!(started.elapsed() < DEADLINE, "after {DEADLINE:?}:\n{different}");
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// All that the operator made, without what differs from run to run.
    async fn state(&self) -> anyhow::Result<State> {
        let mut state = State::new();
        let selected = ListParams::default().labels("app.kubernetes.io/managed-by=emulsion-operator");
        self.note::<Deployment>(&mut state, &selected).await?;
        self.note::<NetworkPolicy>(&mut state, &selected).await?;
        self.note::<PodDisruptionBudget>(&mut state, &selected).await?;
        self.note::<Secret>(&mut state, &selected).await?;
        self.note::<Job>(&mut state, &selected).await?;
        for pool in self.api::<RuntimePool>().list(&ListParams::default()).await? {
            let status = pool.status.clone().unwrap_or_default();
            note_status(&mut state, &pool, &status, &status.conditions, status.observed_generation)?;
        }
        for model in self.api::<ModelDeployment>().list(&ListParams::default()).await? {
            let status = model.status.clone().unwrap_or_default();
            note_status(&mut state, &model, &status, &status.conditions, status.observed_generation)?;
        }
        Ok(state)
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    async fn note<K>(&self, state: &mut State, selected: &ListParams) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    {
        for object in self.api::<K>().list(selected).await? {
            let owners: Vec<&str> = object.owner_references().iter().map(|owner| owner.name.as_str()).collect();
            let mut noted = json!({"labels": object.labels(), "owners": owners});
            let whole = serde_json::to_value(&object)?;
            // A Secret's value is made of the namespace's name.
            noted["spec"] = match whole["data"].as_object() {
                Some(data) => data.keys().cloned().collect(),
                None => whole["spec"].clone(),
            };
            let mut text = noted.to_string().replace(&self.name, "NAMESPACE");
            // A Job selects its pods by its uid, and its pods name that of the model.
            for uid in object.uid().iter().chain(object.owner_references().iter().map(|owner| &owner.uid)) {
                text = text.replace(uid, "UID");
            }
            state.insert(format!("{} {}", K::kind(&()), object.name_any()), serde_json::from_str(&text)?);
        }
        Ok(())
    }
}

fn note_status<K: Resource<DynamicType = ()>>(
    state: &mut State,
    object: &K,
    status: &impl Serialize,
    conditions: &[Condition],
    observed: Option<i64>,
) -> anyhow::Result<()> {
    let told = |condition: &Condition| json!({"type": condition.type_, "status": condition.status, "reason": condition.reason, "message": condition.message});
    let mut noted = serde_json::to_value(status)?;
    noted["conditions"] = conditions.iter().map(told).collect();
    noted["isObserved"] = json!(observed == object.meta().generation);
    let namespace = object.namespace().unwrap_or_default();
    let text = noted.to_string().replace(&namespace, "NAMESPACE");
    state.insert(format!("{} {}", K::kind(&()), object.name_any()), serde_json::from_str(&text)?);
    Ok(())
}

/// What a run shall come to in each phase.
enum Wanted<'a> {
    /// What is written above.
    Summaries([Summary; 2]),
    /// The very same as another run.
    States(&'a [State; 2]),
}

impl Wanted<'_> {
    /// What is not as wanted, for people.
    fn different(&self, state: &State, phase: usize) -> Option<String> {
        match self {
            Self::Summaries(wanted) => {
                let summary = Summary::of(state);
                (summary != wanted[phase]).then(|| format!("{summary:#?} instead of {:#?}", wanted[phase]))
            }
            Self::States(wanted) => {
                let wanted = &wanted[phase];
                let names: BTreeSet<&String> = wanted.keys().chain(state.keys()).collect();
                let different = names.into_iter().filter(|name| wanted.get(*name) != state.get(*name));
                let show = |name: &String| format!("{name}: {:?} instead of {:?}", state.get(name), wanted.get(name));
                Some(different.map(show).collect::<Vec<_>>().join("\n")).filter(|different| !different.is_empty())
            }
        }
    }
}

/// Runs the plan in a namespace of its own. Returns how many writes were seen, and the states.
async fn run(space: &Space, name: &str, plan: Plan, wanted: &Wanted<'_>) -> anyhow::Result<(usize, [State; 2])> {
    let room = Room::open(space.cluster().client().await?, format!("{}-{name}", space.name())).await?;
    let interference = Interference::new(plan);
    let states = room.run(space, &interference, wanted).await.with_context(|| format!("{plan:?}"));
    room.close().await?;
    Ok((interference.writes(), states?))
}

/// A run that nobody disturbs.
async fn undisturbed(space: &Space) -> anyhow::Result<(usize, [State; 2])> {
    for definition in crds::definitions() {
        space.apply(&serde_yaml::to_string(&definition)?).await?;
    }
    run(space, "undisturbed", Plan::Watch, &Wanted::Summaries([declared(), changed()])).await
}

async fn all_end_alike(space: &Space, plans: impl Iterator<Item = Plan>, states: &[State; 2]) -> anyhow::Result<()> {
    futures::stream::iter(plans.enumerate())
        .map(async |(number, plan)| run(space, &number.to_string(), plan, &Wanted::States(states)).await.map(drop))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

#[test]
fn what_an_operator_leaves_that_ends_at_any_of_its_writes_the_next_one_finishes() {
    in_namespace("crash-points", Needs::Api, async |space| {
        let (writes, states) = undisturbed(space).await?;
        eprintln!("{writes} writes, each of them a place to end at, before and after");
        anyhow::ensure!((10..MOST_WRITES).contains(&writes), "{writes} writes are too many or too few");
        let plans = (1..=writes).flat_map(|at| [false, true].map(|carried_out| Plan::Crash { at, carried_out }));
        all_end_alike(space, plans, &states).await
    });
}

#[test]
fn lost_writes_lost_answers_and_stale_watches_lead_to_the_same_state() {
    in_namespace("chaos", Needs::Api, async |space| {
        let (_, states) = undisturbed(space).await?;
        let first = rand::random::<u32>();
        eprintln!("seeds {first} and the {} after it", CHAOTIC_RUNS - 1);
        let plans = (0..CHAOTIC_RUNS).map(|number| Plan::Chaos { seed: u64::from(first) + number });
        all_end_alike(space, plans, &states).await
    });
}
