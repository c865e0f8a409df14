use std::path::Path;

use cluster::{Needs, in_namespace};
use k8s_openapi::api::core::v1::ConfigMap;

/// A chart of one map, in a folder of its own.
fn write_chart(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder.join("templates"))?;
    std::fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: toy\nversion: 1.0.0\n")?;
    std::fs::write(folder.join("values.yaml"), "colour: red\n")?;
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\ndata:\n  colour: {{ .Values.colour }}\n";
    Ok(std::fs::write(folder.join("templates/map.yaml"), map)?)
}

#[test]
fn a_chart_is_installed_upgraded_and_uninstalled() {
    in_namespace("helm", Needs::Api, async |space| {
        let folder = tempfile::tempdir()?;
        write_chart(folder.path())?;
        let chart = folder.path().to_str().expect("the temporary folder's path is UTF-8");
        let helm = async |arguments: &[&str]| {
            let all = arguments.iter().copied().chain(["--namespace", space.name()]);
            space.cluster().helm(all).await?.ok()
        };
        let colour = async || anyhow::Ok(space.api::<ConfigMap>().get("it").await?.data.unwrap_or_default()["colour"].clone());

        helm(&["install", "it", chart]).await?;
        assert_eq!(colour().await?, "red");
        helm(&["upgrade", "it", chart, "--set", "colour=blue"]).await?;
        assert_eq!(colour().await?, "blue");
        assert!(helm(&["list", "--short"]).await?.contains("it"));
        helm(&["uninstall", "it", "--wait"]).await?;
        space.wait_gone::<ConfigMap>("it").await
    });
}
