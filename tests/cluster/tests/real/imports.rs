use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cluster::{Image, Needs, Space, in_namespace};
use crds::{ModelDeployment, import::IMPORT, model_deployment::Family, replica};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{Pod, Secret},
    },
};
use kube::{
    Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    installation::{Installation, condition, lacks, reason, repository},
    shapes::{pod, ready},
};

const REPOSITORY: &str = "acme/demo";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce: restricted";

/// A model of the hub, whose digest is pinned.
fn model(sha256: &str) -> String {
    format!(
        "{{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {{name: published}}, spec: {{\
         source: {{uri: 'hf://{REPOSITORY}', sha256: '{sha256}', secretRef: {{name: hub}}}}, \
         defaults: {{width: 64, height: 64}}, limits: {{minWidth: 32, minHeight: 32}}}}}}"
    )
}

/// Every file below a folder, by its path in it.
fn files_below(folder: &Path, within: &str, found: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{within}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            files_below(&entry.path(), &format!("{path}/"), found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// A hub in the test's namespace that publishes the demo model: files where a hub's API has its answers.
async fn publish(space: &Space) -> anyhow::Result<()> {
    let demo = repository().join("models/demo");
    let mut paths = Vec::new();
    files_below(&demo, "", &mut paths)?;
    let entries: Vec<Value> = paths.iter().map(|path| json!({"type": "file", "path": path})).collect();
    let answers = tempfile::tempdir()?;
    let answer = |name: &str, text: String| -> anyhow::Result<PathBuf> {
        let path = answers.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let image = Image {
        name: "emulsion.test/hub:1".to_owned(),
        program: space.cluster().pod_program(),
        files: vec![
            (answer("revision", json!({"sha": COMMIT}).to_string())?, format!("/hub/api/models/{REPOSITORY}/revision/main")),
            (answer("tree", json!(entries).to_string())?, format!("/hub/api/models/{REPOSITORY}/tree/{COMMIT}")),
            (demo, format!("/hub/{REPOSITORY}/resolve/{COMMIT}")),
        ],
    };
    space.cluster().import(&image).await?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: hub}, spec: {selector: {app: hub}, ports: [{port: 8080}]}}";
    let pod = pod("hub", "[files, /hub]", "").replace("emulsion.test/pod:1", &image.name);
    let endpoint = format!("http://{}:8080", host(space));
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"HF_ENDPOINT": endpoint}});
    space.apply(&format!("{pod}\n---\n{service}\n---\n{secret}")).await?;
    space.wait_for::<Pod>("hub", "ready", ready).await.map(drop)
}

fn host(space: &Space) -> String {
    format!("hub.{}.svc", space.name())
}

/// What `emulsion-runtime inspect` says of the model that is published: people pin its digest.
fn inspected() -> anyhow::Result<(String, i64)> {
    let runtime = std::env::var_os("EMULSION_RUNTIME").context("EMULSION_RUNTIME is not set")?;
    let said = std::process::Command::new(runtime).args(["inspect", "--json", "--model"]).arg(repository().join("models/demo")).output()?;
    let inspection: Value = serde_json::from_slice(&said.stdout)?;
    let digest = inspection["digest"].as_str().context("no digest")?.to_owned();
    Ok((digest, inspection["bytes"].as_i64().context("no size")?))
}

/// Names of the objects of imports.
async fn of_imports<K>(space: &Space) -> anyhow::Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let selected = ListParams::default().labels(&replica::selector(IMPORT));
    Ok(space.api::<K>().list(&selected).await?.items.iter().map(K::name_any).collect())
}

/// Lets the time be over that Jobs are kept after their end.
async fn outlive_jobs(space: &Space) -> anyhow::Result<()> {
    for name in of_imports::<Job>(space).await? {
        let soon = Patch::Merge(json!({"spec": {"ttlSecondsAfterFinished": 0}}));
        space.api::<Job>().patch(&name, &PatchParams::default(), &soon).await?;
    }
    Ok(())
}

#[test]
fn published_weights_are_imported_by_a_job_and_leave_nothing_but_their_model() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    in_namespace("imports", Needs::Pods, async |space| {
        let name = space.name();
        space.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{RESTRICTED}}}}}}}")).await?;
        publish(space).await?;
        let (digest, weight_bytes) = inspected()?;
        let installation = Installation::new(space, &json!({"imports": {"allowHosts": [host(space)]}})).await?;

        let other = "0".repeat(64);
        space.apply(&model(&other)).await?;
        let failed = space.wait_for::<ModelDeployment>("published", "told of its digest", |model| reason(model) == "ImportFailed").await?;
        let message = condition(&failed, "Ready").map(|ready| ready.message.clone()).unwrap_or_default();
        anyhow::ensure!([&digest, &other, "spec.source.sha256"].iter().all(|word| message.contains(*word)), "{message}");
        // The router hears of it a moment later than this test.
        space
            .retry("a call that is told the digest", async || {
                let answer = installation.post("/v1/images/generations", &json!({"model": "published", "prompt": "x"})).await?;
                anyhow::ensure!(answer.status == 503 && answer.body.to_string().contains(&digest), "{answer:?}");
                Ok(())
            })
            .await?;

        space.apply(&model(&digest)).await?;
        let imported = space.wait_for::<ModelDeployment>("published", "imported", |model| reason(model) == "Available").await?;
        let status = imported.status.unwrap_or_default();
        anyhow::ensure!((status.family, status.sha256.as_deref()) == (Some(Family::Sd15), Some(digest.as_str())), "{status:?}");
        // Its configurations and headers are a little beside its weights.
        anyhow::ensure!(status.bytes.is_some_and(|bytes| (weight_bytes..weight_bytes * 2).contains(&bytes)), "{status:?}");
        space.retry("an image", async || installation.draw("published", 4).await).await?;

        let [_] = of_imports::<Job>(space).await?.as_slice() else { anyhow::bail!("the Job of the other digest is there still") };
        outlive_jobs(space).await?;
        space
            .retry("all objects of imports to be gone", async || {
                let left = [of_imports::<Job>(space).await?, of_imports::<Pod>(space).await?, of_imports::<Secret>(space).await?].concat();
                anyhow::ensure!(left.is_empty(), "{left:?}");
                Ok(())
            })
            .await?;
        installation.draw("published", 4).await?;
        installation.uninstall().await
    });
}
