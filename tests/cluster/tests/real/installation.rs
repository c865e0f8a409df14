//! Emulsion as its chart installs it, in the namespace of one test: images of the real binaries, a key, and calls through the Service.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use cluster::{Cluster, Forward, Image, Needs, Space, in_namespace};
use crds::{ModelDeployment, RuntimePool};
use futures::future::try_join_all;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::shapes::{available, node, ready};

/// Where the binaries are; without them these tests are left out.
const BINARIES: [(&str, &str); 3] = [("EMULSION_OPERATOR", "operator"), ("EMULSION_ROUTER", "router"), ("EMULSION_RUNTIME", "runtime")];
/// Callers of a steady load; each calls again when it was answered.
const CALLERS: usize = 3;
/// How long a call may take: replicas start for it on a machine that does much else.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// An installation that serves.
pub(crate) struct Installation<'a> {
    space: &'a Space,
    router: Forward,
    http: reqwest::Client,
    key: String,
}

/// What an answer was.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// Runs a test with an installation of its own, whose values have `values` over what all tests set.
pub(crate) fn installed(name: &str, needs: Needs, values: &Value, test: impl AsyncFnOnce(&Space, &Installation<'_>) -> anyhow::Result<()>) {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    in_namespace(name, needs, async |space| {
        let installation = Installation::new(space, values).await?;
        test(space, &installation).await?;
        installation.uninstall().await
    });
}

/// A model that has replicas of its own.
pub(crate) fn dedicated(name: &str, serving: &str) -> String {
    format!(
        "{{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {{name: {name}}}, spec: {{source: {{uri: 'file:///models/demo'}}, \
         family: sd15, serving: {{dedicated: {{{serving}}}}}, defaults: {{width: 64, height: 64}}, limits: {{minWidth: 32, minHeight: 32}}}}}}"
    )
}

/// The repository's folder.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

fn chart() -> String {
    repository().join("charts/emulsion").to_str().expect("the repository's path is UTF-8").to_owned()
}

/// What is missing for an installation, as a sentence.
pub(crate) fn lacks() -> Option<String> {
    let missing = BINARIES.iter().find(|(variable, _)| std::env::var_os(variable).is_none())?;
    Some(format!("{} does not say where the {} is", missing.0, missing.1))
}

/// The three images, with names that `name` makes of `operator`, `router` and `runtime`.
fn images(name: impl Fn(&str) -> String) -> anyhow::Result<Vec<Image>> {
    let image = |(variable, part): (&str, &str)| {
        let program = PathBuf::from(std::env::var_os(variable).with_context(|| format!("{variable} is not set"))?);
        let models = repository().join("models");
        let files = match part {
            "runtime" => vec![(models.join("demo"), "/models/demo".to_owned()), (models.join("demo-lora"), "/models/demo-lora".to_owned())],
            _ => Vec::new(),
        };
        Ok(Image { name: name(part), program, files })
    };
    BINARIES.into_iter().map(image).collect()
}

async fn import_all(cluster: &'static Cluster, tag: &str) -> anyhow::Result<()> {
    for image in images(|part| format!("emulsion.test/{part}:{tag}"))? {
        cluster.import(&image).await?;
    }
    Ok(())
}

/// Gives the nodes the three images, once for all tests.
async fn import_images(cluster: &'static Cluster) -> anyhow::Result<()> {
    static IMPORTED: OnceCell<Result<(), String>> = OnceCell::const_new();
    IMPORTED
        .get_or_init(async || import_all(cluster, "1").await.map_err(|error| format!("{error:#}")))
        .await
        .clone()
        .map_err(anyhow::Error::msg)
}

/// Pushes the three images to the cluster's registry under the chart's own version; returns the registry's name.
pub(crate) async fn push_images(cluster: &'static Cluster) -> anyhow::Result<String> {
    for (image, (_, part)) in images(|part| format!("emulsion-{part}:local"))?.iter().zip(BINARIES) {
        cluster.push(image, &format!("emulsion-{part}:{}", env!("CARGO_PKG_VERSION"))).await?;
    }
    cluster.registry().map(str::to_owned)
}

/// The plan that a test's tenants have. Plans belong to no namespace, so each test has one of its own name.
pub(crate) fn plan(space: &Space) -> String {
    space.name().to_owned()
}

/// The chart's values for this test, with `more` over them.
fn values(space: &Space, more: &Value) -> Value {
    let image = |name: &str| format!("emulsion.test/{name}");
    let plan_spec = json!({"requestsPerMinute": 10000, "burst": 1000, "parallelImages": 100, "queueDepth": 1000});
    let mut plans = json!({});
    for name in ["free", "pay-as-you-go", "standard", "unlimited", "premium", "enterprise"] {
        plans[name] = Value::Null;
    }
    plans[plan(space)] = plan_spec;
    let values = json!({
        "images": {"operator": image("operator"), "router": image("router"), "runtime": image("runtime"), "tag": "1"},
        "watchNamespace": space.name(),
        "log": "info,kube=warn",
        "operator": {"replicas": 1},
        "router": {"storage": {"size": ""}, "syncWait": "90s", "shutdownDelay": "1s", "service": {"type": "NodePort"}},
        "pools": {"default": {"minReplicas": 0, "maxReplicas": 1, "idleAfter": "60s"}},
        "plans": plans,
    });
    merged(values, more)
}

/// Values with others over them.
pub(crate) fn merged(mut values: Value, more: &Value) -> Value {
    merge(&mut values, more);
    values
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

impl<'a> Installation<'a> {
    /// Installs the chart with these values over the tests' own, and waits until it serves.
    pub(crate) async fn new(space: &'a Space, more: &Value) -> anyhow::Result<Self> {
        Self::of_chart(space, &chart(), more).await
    }

    /// As [`Installation::new`], of the chart in another folder.
    pub(crate) async fn of_chart(space: &'a Space, chart: &str, more: &Value) -> anyhow::Result<Self> {
        import_images(space.cluster()).await?;
        helm(space, &["install", "emulsion", chart, "--values", &values_file(space, more)?]).await?;
        for name in ["emulsion-operator", "emulsion-router"] {
            space.wait_for::<Deployment>(name, "available", available).await?;
        }
        let http = reqwest::Client::builder().no_proxy().timeout(CALL_TIMEOUT).build()?;
        let router = forward_to_service(space, "emulsion-router", 8080).await?;
        space.retry("the Service's rules to reach the router", async || router.get("/readyz").await).await?;
        let key = make_key(space, "tests").await?;
        Ok(Self { space, router, http, key })
    }

    /// Removes it, with what is in no namespace.
    pub(crate) async fn uninstall(&self) -> anyhow::Result<()> {
        helm(self.space, &["uninstall", "emulsion", "--wait"]).await.map(drop)
    }

    /// Gives the nodes the same images under another tag.
    pub(crate) async fn import_images_as(&self, tag: &str) -> anyhow::Result<()> {
        import_all(self.space.cluster(), tag).await
    }

    /// Asks the installation whether it serves, as people do after installing.
    pub(crate) async fn helm_test(&self) -> anyhow::Result<String> {
        helm(self.space, &["test", "emulsion"]).await
    }

    /// What one tenant's call was answered.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let request = self.http.post(format!("http://{}{path}", self.router.address())).bearer_auth(&self.key).json(body);
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    /// The key of the tests' tenant.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The bytes behind an address of an answer.
    pub(crate) async fn fetch(&self, url: &str) -> anyhow::Result<Vec<u8>> {
        let response = self.http.get(url).send().await?.error_for_status()?;
        Ok(response.bytes().await?.to_vec())
    }

    /// Draws with several callers, again and again, until `breaking` has ended. Every call must bring its image.
    pub(crate) async fn under_load<T>(&self, breaking: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let (ended, drawn) = (AtomicBool::new(false), AtomicUsize::new(0));
        let caller = async || {
            while !ended.load(Ordering::Relaxed) {
                self.draw("demo", 10).await.context("a call under load")?;
                drawn.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        };
        let breaking = async {
            let value = breaking.await;
            ended.store(true, Ordering::Relaxed);
            value
        };
        let (value, _) = tokio::try_join!(breaking, try_join_all((0..CALLERS).map(|_| caller())))?;
        anyhow::ensure!(drawn.load(Ordering::Relaxed) > CALLERS, "there was no load");
        Ok(value)
    }

    /// Asks for one image in OpenAI's dialect, and sees that it is one.
    pub(crate) async fn draw(&self, model: &str, steps: u32) -> anyhow::Result<()> {
        let call = json!({"model": model, "prompt": "a large red circle on a blue background", "steps": steps, "response_format": "url"});
        let answer = self.post("/v1/images/generations", &call).await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        let url = answer.body["data"][0]["url"].as_str().with_context(|| format!("no url in {answer:?}"))?;
        let picture = self.fetch(url).await?;
        anyhow::ensure!(picture.starts_with(b"\x89PNG\r\n\x1a\n") && picture.ends_with(b"IEND\xaeB`\x82"), "it is no whole PNG");
        Ok(())
    }
}

fn values_file(space: &Space, more: &Value) -> anyhow::Result<String> {
    let path = std::env::temp_dir().join(format!("emulsion-values-{}.json", space.name()));
    std::fs::write(&path, values(space, more).to_string())?;
    Ok(path.to_str().context("the temporary folder's path is not UTF-8")?.to_owned())
}

async fn helm(space: &Space, arguments: &[&str]) -> anyhow::Result<String> {
    space.cluster().helm(arguments.iter().copied().chain(["--namespace", space.name()])).await?.ok()
}

/// Through the Service, by its port on a node, as the other hosts see it; on another's cluster, through a pod of it.
async fn forward_to_service(space: &Space, name: &str, port: u16) -> anyhow::Result<Forward> {
    if let Ok(control) = space.cluster().control() {
        let ports = space.api::<Service>().get(name).await?.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let port = ports.first().and_then(|port| port.node_port).context("the Service has no port on nodes")?;
        let (first, node) = match control.state().await?.hosts.as_slice() {
            [first, node, ..] => (first.name.clone(), node.address.clone()),
            _ => anyhow::bail!("the cluster has no nodes"),
        };
        return control.forward(&first, &format!("{node}:{port}")).await;
    }
    space.port_forward(&first_pod(space, &format!("app.kubernetes.io/name={name}")).await?, port).await
}

pub(crate) async fn first_pod(space: &Space, label: &str) -> anyhow::Result<String> {
    Ok(space.pods(label).await?.iter().find(|pod| ready(pod)).with_context(|| format!("no ready pod with {label}"))?.name_any())
}

/// Makes a key as an administrator does.
async fn make_key(space: &Space, tenant: &str) -> anyhow::Result<String> {
    let router = first_pod(space, "app.kubernetes.io/name=emulsion-router").await?;
    let command = ["/emulsion-router", "key", "create", "--tenant", tenant, "--plan", &plan(space)];
    Ok(space.exec(&router, &command).await?.trim().to_owned())
}

/// The pods of replicas.
pub(crate) async fn replicas(space: &Space) -> anyhow::Result<Vec<Pod>> {
    space.pods("app.kubernetes.io/component=replica").await
}

/// The pods of replicas that are making images now.
pub(crate) async fn working(space: &Space) -> anyhow::Result<Vec<Pod>> {
    let mut working = Vec::new();
    for pod in replicas(space).await?.into_iter().filter(ready) {
        let forward = space.port_forward(&pod.name_any(), 8080).await?;
        let figures = forward.get("/metrics").await?;
        if figures.lines().any(|line| line.starts_with("emulsion_runtime_running") && !line.ends_with(" 0")) {
            working.push(pod);
        }
    }
    Ok(working)
}

/// Ends the process of a pod's container at once, as the kernel does when memory is gone.
pub(crate) async fn kill_container(space: &Space, pod: &Pod) -> anyhow::Result<()> {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
    let id =
        status.and_then(|status| status.container_id.as_deref()).and_then(|id| id.strip_prefix("containerd://")).context("no container")?;
    let command = ["ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id];
    space.cluster().control()?.run(node(pod), &command).await.map(drop)
}

/// A condition of a model, once the operator has seen its newest generation.
pub(crate) fn condition<'a>(model: &'a ModelDeployment, kind: &str) -> Option<&'a Condition> {
    let status = model.status.as_ref().filter(|status| status.observed_generation == model.metadata.generation)?;
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// The reason of a model's condition `Ready`.
pub(crate) fn reason(model: &ModelDeployment) -> &str {
    condition(model, "Ready").map_or("", |condition| &condition.reason)
}

/// The reason of a pool's condition `Ready`.
pub(crate) fn pool_reason(pool: &RuntimePool) -> &str {
    let conditions = pool.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().find(|condition| condition.type_ == "Ready").map_or("", |condition| &condition.reason)
}
