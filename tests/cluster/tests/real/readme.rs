use anyhow::Context as _;
use cluster::{Needs, Space, in_namespace};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{Api, api::DeleteParams};

use crate::{
    installation::{lacks, push_images, repository},
    shapes::available,
};

/// The namespace that the README names.
const NAMESPACE: &str = "emulsion";

/// The commands of the first block that holds `text`.
fn block(page: &str, text: &str) -> anyhow::Result<String> {
    let blocks = page.split("```").skip(1).step_by(2);
    let block = blocks.map(|block| block.split_once('\n').map_or("", |(_, body)| body)).find(|block| block.contains(text));
    block.map(str::to_owned).with_context(|| format!("no block holds {text:?}"))
}

/// The command of helm's notes that holds `text`: they are indented, and a backslash goes on in the next line.
fn command(notes: &str, text: &str) -> anyhow::Result<String> {
    let joined = notes.replace("\\\n", "");
    let command = joined.lines().find(|line| line.starts_with("  ") && line.contains(text));
    command.map(|command| command.trim().to_owned()).with_context(|| format!("the notes have no command with {text:?}: {notes}"))
}

async fn follow(space: &Space) -> anyhow::Result<()> {
    let registry = push_images(space.cluster()).await?;
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    let shell = async |script: &str| space.cluster().shell(&repository(), script).await?.ok();
    // The volume that a cluster with a storage class would make.
    space.static_volume_for("data", "node-1", "10Gi", NAMESPACE, "emulsion-router").await?;

    let install = block(&readme, "helm install emulsion")?.replace("REGISTRY", &registry);
    let notes = shell(&install).await?;
    assert!(notes.contains("STATUS: deployed"), "{notes}");
    assert!(shell("kubectl get modeldeployments --all-namespaces").await?.contains("demo"));
    for name in ["emulsion-operator", "emulsion-router"] {
        space.wait_for_in(Api::<Deployment>::namespaced(space.client(), NAMESPACE), name, "available", available).await?;
    }
    let key = shell(&command(&notes, "key create")?).await?;
    // One port of this machine may be taken.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let forward = command(&notes, "port-forward")?.replace(" 8080:", &format!(" {free}:"));
    let call = command(&notes, "curl")?.replace(":8080/", &format!(":{free}/")).replace("KEY", key.trim());
    let answer = shell(&format!(
        "{forward} >/dev/null & trap \"kill $!\" EXIT\n\
         curl --silent --show-error --retry 60 --retry-delay 1 --retry-connrefused --output /dev/null http://127.0.0.1:{free}/readyz\n\
         url=$({call} --silent --show-error | tee /dev/stderr | sed 's/.*\"url\": *\"\\([^\"]*\\)\".*/\\1/')\n\
         curl --silent --show-error --location \"$url\" | head -c 8 | od -An -c"
    ))
    .await?;
    assert!(answer.contains("P   N   G"), "{answer}");
    assert!(shell(&command(&notes, "modeldeployments,runtimepools,tenantplans")?).await?.contains("unlimited"));
    let chart = std::fs::read_to_string(repository().join("charts/emulsion/README.md"))?;
    let test = block(&chart, "helm test")?.lines().find(|line| line.starts_with("helm test")).context("no helm test")?.to_owned();
    assert!(shell(&test).await?.contains("Succeeded"));

    // What a person declared outlives the installation.
    let mine =
        "{apiVersion: emulsion.dev/v1alpha1, kind: ModelDeployment, metadata: {name: mine}, spec: {source: {uri: 'file:///models/demo'}}}";
    space.apply(mine).await?;
    shell(&format!("helm uninstall emulsion --namespace {NAMESPACE} --wait")).await?;
    let left = shell("kubectl get modeldeployments,runtimepools,tenantplans --all-namespaces --output name").await?;
    let is_left = |name: &str| left.lines().any(|line| line == name);
    assert!(is_left("modeldeployment.emulsion.dev/mine"), "{left}");
    for gone in ["modeldeployment.emulsion.dev/demo", "runtimepool.emulsion.dev/default", "tenantplan.emulsion.dev/unlimited"] {
        assert!(!is_left(gone), "{left}");
    }
    let claims = shell(&format!("kubectl get persistentvolumeclaims --namespace {NAMESPACE} --output name")).await?;
    assert_eq!(claims.trim(), "persistentvolumeclaim/emulsion-router");
    Ok(())
}

#[test]
fn the_readmes_cluster_part_leads_to_an_image_word_for_word() {
    if let Some(missing) = lacks() {
        return eprintln!("skipped: {missing}");
    }
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("skipped: it needs curl");
    }
    // It serves all namespaces: nobody else's installation may be there.
    in_namespace("readme", Needs::Hosts, async |space| {
        let followed = follow(space).await;
        let _ = space.cluster().helm(["uninstall", "emulsion", "--namespace", NAMESPACE, "--ignore-not-found"]).await;
        Api::<Namespace>::all(space.client()).delete(NAMESPACE, &DeleteParams::background()).await?;
        followed
    });
}
