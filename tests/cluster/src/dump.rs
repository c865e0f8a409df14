//! What to look at when a test failed: printed at once, since the cluster is gone a moment later.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};

use crate::Space;

/// The last lines of each container's log that are shown.
const LOG_LINES: i64 = 40;

/// Events, pods and logs of the namespace, and the nodes' conditions. What cannot be asked for is left out, and says so.
pub(crate) async fn describe(space: &Space) -> String {
    let mut text = format!("──── what {} looked like ────\n", space.name());
    let sections = [("nodes", nodes(space).await), ("events", events(space).await), ("pods", pods(space).await)];
    for (title, section) in sections {
        let section = section.unwrap_or_else(|error| format!("  cannot be told: {error}\n"));
        let _ = write!(text, "{title}:\n{section}");
    }
    text
}

async fn nodes(space: &Space) -> anyhow::Result<String> {
    let mut text = String::new();
    for node in Api::<Node>::all(space.client()).list(&ListParams::default()).await? {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let shown: Vec<_> = conditions
            .filter(|condition| condition.status != "False")
            .map(|condition| format!("{}={}", condition.type_, condition.status))
            .collect();
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(|taint| taint.key.as_str()).collect::<Vec<_>>();
        writeln!(text, "  {} {} {}", node.name_any(), shown.join(" "), taints.join(" "))?;
    }
    Ok(text)
}

async fn events(space: &Space) -> anyhow::Result<String> {
    let mut text = String::new();
    for event in space.api::<Event>().list(&ListParams::default()).await? {
        let about = event.involved_object;
        writeln!(
            text,
            "  {} {}/{}: {} {} (×{})",
            event.type_.unwrap_or_default(),
            about.kind.unwrap_or_default(),
            about.name.unwrap_or_default(),
            event.reason.unwrap_or_default(),
            event.message.unwrap_or_default(),
            event.count.unwrap_or(1),
        )?;
    }
    Ok(text)
}

async fn pods(space: &Space) -> anyhow::Result<String> {
    let mut text = String::new();
    for pod in space.api::<Pod>().list(&ListParams::default()).await? {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_else(|| "no node".to_owned());
        writeln!(text, "  {} on {node}:", pod.name_any())?;
        writeln!(text, "{}", indent(&serde_yaml::to_string(&pod.status)?))?;
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            for previous in [true, false] {
                let parameters =
                    LogParams { container: Some(container.name.clone()), tail_lines: Some(LOG_LINES), previous, ..LogParams::default() };
                let log = space.api::<Pod>().logs(&pod.name_any(), &parameters).await;
                let when = if previous { "log before its restart" } else { "log" };
                match log {
                    Ok(log) => writeln!(text, "    {}, {when}:\n{}", container.name, indent(&log))?,
                    Err(_) if previous => {}
                    Err(error) => writeln!(text, "    {}, {when}: {error}", container.name)?,
                }
            }
        }
    }
    Ok(text)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}
