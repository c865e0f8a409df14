//! What the status of a ModelDeployment should say: pure, from the object, its neighbours and the time.

use std::cmp::Ordering;

use crds::{
    ModelDeployment, ModelDeploymentStatus,
    condition::{
        FALSE, PROGRESSING, READY, REASON_CONFLICT, REASON_INVALID, REASON_NOT_IMPORTED, REASON_RECONCILED, REASON_SOURCE_UNUSABLE,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

/// Longest message of a condition, in bytes; the API server allows 32,768.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Why a model cannot be called.
struct Finding {
    reason: &'static str,
    message: String,
}

/// The status `model` should have. `others` may hold any models, the same one among them.
///
/// Transition times change only with a condition's status, so that an unchanged model has an unchanged status.
pub fn desired<'a>(model: &ModelDeployment, others: impl IntoIterator<Item = &'a ModelDeployment>, now: &Time) -> ModelDeploymentStatus {
    let finding = judge(model, others);
    let previous = model.status.clone().unwrap_or_default();
    let condition = |kind: &str, reason: &str, message: &str| -> Condition {
        let since = previous.conditions.iter().find(|condition| condition.type_ == kind && condition.status == FALSE);
        Condition {
            last_transition_time: since.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone()),
            message: truncated(message).to_owned(),
            observed_generation: model.metadata.generation,
            reason: reason.to_owned(),
            status: FALSE.to_owned(),
            type_: kind.to_owned(),
        }
    };
    ModelDeploymentStatus {
        conditions: vec![
            condition(READY, finding.reason, &finding.message),
            condition(PROGRESSING, REASON_RECONCILED, "the operator has judged this generation"),
        ],
        observed_generation: model.metadata.generation,
        replicas: Some(0),
        ..ModelDeploymentStatus::default()
    }
}

fn judge<'a>(model: &ModelDeployment, others: impl IntoIterator<Item = &'a ModelDeployment>) -> Finding {
    let violations = model.validate();
    if !violations.is_empty() {
        let messages: Vec<String> = violations.iter().map(ToString::to_string).collect();
        return Finding { reason: REASON_INVALID, message: messages.join("; ") };
    }
    if model.spec.source.uri.starts_with("file:") {
        let message = "file:// is for local mode: put the weights where a cluster can read them, such as s3:// or pvc://";
        return Finding { reason: REASON_SOURCE_UNUSABLE, message: message.to_owned() };
    }
    let id = model.model_id();
    let holder = others.into_iter().filter(|other| other.model_id() == id && other.uid() != model.uid()).min_by(|a, b| seniority(a, b));
    if let Some(holder) = holder.filter(|holder| seniority(holder, model) == Ordering::Less) {
        let (namespace, name) = (holder.namespace().unwrap_or_default(), holder.name_any());
        return Finding {
            reason: REASON_CONFLICT,
            message: format!("modelId {id:?} already belongs to {namespace}/{name}: choose another"),
        };
    }
    Finding {
        reason: REASON_NOT_IMPORTED,
        message: "the spec is valid; this version of the operator does not import weights yet".to_owned(),
    }
}

/// Who claimed first: the older object, and of two equally old ones the first by namespace and name.
fn seniority(one: &ModelDeployment, other: &ModelDeployment) -> Ordering {
    let key = |model: &ModelDeployment| (model.creation_timestamp(), model.namespace(), model.name_any());
    key(one).cmp(&key(other))
}

fn truncated(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model(name: &str, created: &str, source: &str) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": crds::API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": "models", "uid": name, "creationTimestamp": created, "generation": 3},
            "spec": {"modelId": "shared", "source": {"uri": source}},
        }))
        .unwrap()
    }

    fn time(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn reason(status: &ModelDeploymentStatus) -> &str {
        &status.conditions.iter().find(|condition| condition.type_ == READY).unwrap().reason
    }

    #[test]
    fn the_older_model_keeps_a_contested_id() {
        let older = model("b", "2026-01-01T00:00:00Z", "hf://owner/name");
        let newer = model("a", "2026-01-02T00:00:00Z", "hf://owner/name");
        let now = time("2026-01-03T00:00:00Z");
        let everybody = [&older, &newer];
        assert_eq!(reason(&desired(&older, everybody, &now)), REASON_NOT_IMPORTED);
        let conflict = desired(&newer, everybody, &now);
        assert_eq!(reason(&conflict), REASON_CONFLICT);
        assert!(conflict.conditions[0].message.contains("models/b"));
    }

    #[test]
    fn models_of_one_second_agree_on_who_was_first() {
        let created = "2026-01-01T00:00:00Z";
        let (a, b) = (model("a", created, "hf://owner/name"), model("b", created, "hf://owner/name"));
        let now = time("2026-01-03T00:00:00Z");
        assert_eq!(reason(&desired(&a, [&a, &b], &now)), REASON_NOT_IMPORTED);
        assert_eq!(reason(&desired(&b, [&a, &b], &now)), REASON_CONFLICT);
    }

    #[test]
    fn a_spec_that_breaks_a_rule_is_invalid_with_the_rules_words() {
        let broken = model("a", "2026-01-01T00:00:00Z", "ftp://host/model");
        let status = desired(&broken, [], &time("2026-01-03T00:00:00Z"));
        assert_eq!(reason(&status), REASON_INVALID);
        assert!(status.conditions[0].message.contains(crds::rule::SOURCE_URI.message));
    }

    #[test]
    fn a_source_for_laptops_is_not_ready_on_a_cluster() {
        let local = model("a", "2026-01-01T00:00:00Z", "file://./demo");
        assert_eq!(reason(&desired(&local, [], &time("2026-01-03T00:00:00Z"))), REASON_SOURCE_UNUSABLE);
    }

    #[test]
    fn an_unchanged_model_has_an_unchanged_status() {
        let mut model = model("a", "2026-01-01T00:00:00Z", "hf://owner/name");
        let first = desired(&model, [], &time("2026-01-03T00:00:00Z"));
        model.status = Some(first.clone());
        assert_eq!(desired(&model, [], &time("2026-01-04T00:00:00Z")), first);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "ä".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(truncated(&format!("x{long}")).len(), MAX_MESSAGE_BYTES - 1);
    }
}
