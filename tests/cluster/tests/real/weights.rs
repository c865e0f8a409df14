use std::path::PathBuf;

use anyhow::Context as _;
use cluster::{Needs, Space, in_namespace};
use crds::{ModelDeployment, RuntimePool};
use serde_json::json;

use crate::installation::{Installation, condition, installed, lacks, pool_reason, reason, repository};

/// The volume's node.
const NODE: &str = "node-1";

/// Makes a volume with a copy of a file or folder of this machine.
async fn volume_with(space: &Space, name: &str, source: &std::path::Path) -> anyhow::Result<()> {
    space.static_volume(name, NODE, "128Mi").await?;
    let source = source.to_str().context("its path is UTF-8")?;
    let folder = format!("/var/lib/volumes/{}-{name}/", space.name());
    space.cluster().control()?.run(NODE, &["cp", "-r", source, &folder]).await.map(drop)
}

/// The safety checker's weights, as `make safety-checker` puts them.
fn safety_checker() -> Option<PathBuf> {
    let cache = std::env::var_os("EMULSION_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/emulsion")));
    Some(cache?.join("safety-checker/open_nsfw.safetensors")).filter(|file| file.is_file())
}

#[test]
fn a_dedicated_model_is_read_from_its_volume() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    in_namespace("volume", Needs::Hosts, async |space| {
        volume_with(space, "weights", &repository().join("models/demo")).await?;
        let installation = Installation::new(space, &json!({"models": {"demo": null}})).await?;
        let model = |name: &str, uri: &str, serving: &str| {
            format!(
                "{{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {{name: {name}}}, spec: {{source: {{uri: '{uri}'}}, \
                 family: sd15, serving: {{dedicated: {{{serving}}}}}, defaults: {{width: 64, height: 64}}, limits: {{minWidth: 32, minHeight: 32}}}}}}"
            )
        };
        space.apply(&model("own", "pvc://weights/demo", "")).await?;
        space.wait_for::<ModelDeployment>("own", "asleep", |model| reason(model) == "Asleep").await?;
        // The router learns of it by a watch of its own.
        space.retry("an image", async || installation.draw("own", 4).await).await?;
        // Another path in the same volume, where nothing is: the call says so.
        space.apply(&model("own", "pvc://weights/lost", "")).await?;
        space
            .retry("the router to see the change", async || {
                let answer = installation.post("/v1/images/generations", &json!({"model": "own", "prompt": "x", "steps": 2})).await?;
                anyhow::ensure!(answer.status != 200, "{answer:?}");
                let message = answer.body["error"]["message"].as_str().unwrap_or_default();
                anyhow::ensure!(message.contains("cannot be opened"), "{answer:?}");
                Ok(())
            })
            .await?;
        // A claim that is not there: the pod's reason is the model's.
        space.apply(&model("other", "pvc://nowhere/demo", "minReplicas: 1")).await?;
        let told = space
            .wait_for::<ModelDeployment>("other", "told that its claim is missing", |model| reason(model) == "ReplicasFailing")
            .await?;
        let message = condition(&told, "Ready").map(|condition| condition.message.clone()).unwrap_or_default();
        assert!(message.contains("persistentvolumeclaim \"nowhere\" not found"), "{message}");
        // Once it is there, all is well.
        volume_with(space, "nowhere", &repository().join("models/demo")).await?;
        space.wait_for::<ModelDeployment>("other", "healed", |model| reason(model) == "Available").await?;
        installation.draw("other", 4).await?;
        installation.uninstall().await
    });
}

#[test]
fn images_are_checked_by_weights_on_a_volume() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    let Some(weights) = safety_checker() else { return eprintln!("skipped: it needs the weights that `make safety-checker` fetches") };
    in_namespace("checked", Needs::Hosts, async |space| {
        volume_with(space, "checker", &weights).await?;
        let checker = json!({"safetyChecker": {"file": "open_nsfw.safetensors", "existingClaim": "checker"}});
        let installation = Installation::new(space, &checker).await?;
        let call = json!({
            "key": installation.key(), "model_id": "demo", "prompt": "a small green square", "num_inference_steps": 4, "safety_checker": "yes",
        });
        let answer = installation.post("/api/v6/images/text2img", &call).await?;
        assert_eq!((&answer.body["status"], &answer.body["nsfw_content_detected"]), (&json!("success"), &json!(false)), "{answer:?}");
        installation.uninstall().await
    });
}

#[test]
fn a_pools_replica_keeps_what_it_fetches_on_a_volume_of_its_class() {
    installed("cache", Needs::Hosts, &json!({}), async |space, installation| {
        let control = space.cluster().control()?;
        let name = format!("{}-cache", space.name());
        let folder = format!("/var/lib/volumes/{name}");
        control.run(NODE, &["mkdir", "-p", &folder]).await?;
        // Whoever asks for this class gets it.
        let on_node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]});
        let volume = json!({
            "storageClassName": name, "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": folder},
            "persistentVolumeReclaimPolicy": "Retain",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        });
        space
            .apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume}).to_string())
            .await?;
        let spec = json!({"minReplicas": 1, "cache": {"disk": "1Gi", "storageClass": name}});
        let pool = json!({"apiVersion": "emulsion.dev/v1alpha1", "kind": "RuntimePool", "metadata": {"name": "default"}, "spec": spec});
        space.apply(&pool.to_string()).await?;
        space.wait_for::<RuntimePool>("default", "running", |pool| pool_reason(pool) == "Available").await?;
        installation.draw("demo", 4).await?;
        let kept = control.run(NODE, &["ls", &folder]).await?;
        assert!(kept.contains("content"), "{kept}");
        Ok(())
    });
}
