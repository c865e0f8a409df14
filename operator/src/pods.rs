//! Why pods do not run, in words that stay the same while the reason does. Pure.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};

/// Characters of what a container said before it ended.
const SAID_LIMIT: usize = 300;

/// What keeps the replicas of a set from running: the Deployment's own word, or that of the first pod that has one.
pub(crate) fn problem<'a>(deployment: &Deployment, pods: impl IntoIterator<Item = &'a Pod>) -> Option<String> {
    let conditions = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let refused = conditions
        .into_iter()
        .find(|condition| condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True"));
    refused
        .map(|condition| condition.message.clone().unwrap_or_else(|| "pods are refused".to_owned()))
        .or_else(|| pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).find_map(problem_of))
}

fn problem_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        return Some(format!("no node takes a replica: {}", condition.message.as_deref().unwrap_or("unschedulable")));
    }
    status.container_statuses.iter().flatten().find_map(problem_of_container)
}

fn problem_of_container(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ContainerCreating" | "PodInitializing" | "CrashLoopBackOff") | None => {}
        Some(reason) => {
            let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or("no more is known");
            return Some(format!("a replica does not start: {reason}: {message}"));
        }
    }
    // Between two ends it runs for a moment, and is no better for it.
    if container.ready || container.restart_count == 0 {
        return None;
    }
    let states = [&container.state, &container.last_state];
    let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    let said = ended.message.as_deref().map(last_line).filter(|said| !said.is_empty());
    let said = said.unwrap_or_else(|| "its log says why".to_owned());
    Some(format!("a replica ends again and again, with code {}: {said}", ended.exit_code))
}

fn last_line(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(SAID_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(status: &Value) -> Option<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        problem(&Deployment::default(), [&pod])
    }

    fn container(state: &Value, last: &Value) -> Value {
        json!({"containerStatuses": [
            {"name": "runtime", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last},
        ]})
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told() {
        let unschedulable = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes: Insufficient nvidia.com/gpu."},
        ]});
        assert_eq!(told(&unschedulable).unwrap(), "no node takes a replica: 0/2 nodes: Insufficient nvidia.com/gpu.");
        let pull = container(&json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}), &json!({}));
        assert_eq!(told(&pull).unwrap(), "a replica does not start: ErrImagePull: not found");
        let crash = container(
            &json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}),
            &json!({"terminated": {"exitCode": 1, "message": "starting\nError: no CUDA\n\n"}}),
        );
        assert_eq!(told(&crash).unwrap(), "a replica ends again and again, with code 1: Error: no CUDA");
        let refused = json!({"status": {"conditions": [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
        ]}});
        assert_eq!(problem(&serde_json::from_value(refused).unwrap(), []).unwrap(), "exceeded quota");
    }

    #[test]
    fn a_pod_that_ended_before_is_no_better_while_it_runs_for_a_moment() {
        let before = json!({"terminated": {"exitCode": 1, "message": "Error: no CUDA"}});
        let told = told(&container(&json!({"running": {}}), &before));
        assert_eq!(told.unwrap(), "a replica ends again and again, with code 1: Error: no CUDA");
    }

    #[test]
    fn pods_that_start_have_no_problem() {
        assert_eq!(told(&container(&json!({"waiting": {"reason": "ContainerCreating"}}), &json!({}))), None);
        assert_eq!(told(&container(&json!({"running": {}}), &json!({}))), None);
        assert_eq!(told(&json!({"conditions": [{"type": "PodScheduled", "status": "True"}]})), None);
    }
}
