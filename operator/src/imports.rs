//! Bringing a model's weights in: makes the Job, sees how it stands, and reads how it ended from its pod's last words.

use std::time::Duration;

use crds::{
    ImportId, ModelDeployment,
    import::{IMPORT, ImportSource, Imported},
    replica,
};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::Deserialize;

use crate::{
    apply::{self, ApplyError},
    context::Context,
    import_job::{self, CONTAINER, ImportJob},
};

/// Between two looks at an import that runs.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// Characters of an import's last words that are repeated.
const MESSAGE_LIMIT: usize = 2000;
const JOB: &str = "Job";
/// Of an import that nothing is known of.
const RUNS: &str = "the import runs";

/// How a model's weights stand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing {
    /// They are in, under this status.
    In(Imported),
    /// They come. `message` is for people.
    Coming { message: String },
    /// They did not come, and are tried again later.
    Failed { message: String },
}

/// The last words of an import, as the runtime spells them.
#[derive(Debug, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum LastWords {
    Imported { content: String, sha256: String, family: Option<String>, bytes: i64 },
    Failed { message: String },
}

/// How the import of `source` stands; begins it where nobody has.
pub(crate) async fn advance(context: &Context, model: &ModelDeployment, source: &ImportSource) -> Result<Standing, ApplyError> {
    let known = model.status.as_ref().and_then(|status| status.imported.clone());
    if let Some(imported) = known.filter(|imported| imported.source == source.digest()) {
        return Ok(Standing::In(imported));
    }
    let (Some(owner), Some(namespace)) = (model.controller_owner_ref(&()), model.namespace()) else {
        return Ok(Standing::Coming { message: String::new() });
    };
    let name = import_job::object_name(&owner.name, source);
    let job = match find(&context.client, &namespace, &name).await? {
        Some(job) if !import_job::is_held_back(&job) => job,
        found => {
            begin(context, model, &owner, source, found).await?;
            return Ok(Standing::Coming { message: RUNS.to_owned() });
        }
    };
    let words = last_words(&context.client, &namespace, &name).await?;
    Ok(judge(&job, words.as_deref(), source))
}

/// Makes the Job, held back, then the Secret that it owns, and lets it go. An operator that ends in between leaves a Job held back, with
/// which the next one goes on. What was imported for another declaration of the model ends first.
async fn begin(
    context: &Context,
    model: &ModelDeployment,
    owner: &OwnerReference,
    source: &ImportSource,
    found: Option<Job>,
) -> Result<(), ApplyError> {
    let (client, settings, namespace) = (&context.client, &context.settings, model.namespace().unwrap_or_default());
    let job = match found {
        Some(job) => job,
        None => {
            end_others(client, &namespace, owner).await?;
            let generation = model.metadata.generation.unwrap_or_default();
            let id = ImportId { namespace: namespace.clone(), name: owner.name.clone(), uid: owner.uid.clone(), generation };
            let job = import_job::build(&ImportJob {
                owner: owner.clone(),
                id,
                source: source.clone(),
                image: settings.runtime_image.clone(),
                router_url: settings.router_url.clone(),
                allow_networks: settings.import_allow_networks.clone(),
                allow_hosts: settings.import_allow_hosts.clone(),
            });
            apply::apply_one::<Job>(client, &namespace, &job).await?
        }
    };
    let token = import_job::id_of(&job, owner).token(&settings.installation_token);
    apply::apply_one::<Secret>(client, &namespace, &import_job::secret(&job, &token)).await?;
    let released = jobs(client, &namespace).patch(&job.name_any(), &PatchParams::default(), &Patch::Merge(import_job::release())).await;
    released.map(drop).map_err(|source| ApplyError::Apply { kind: JOB.to_owned(), name: job.name_any(), source: Box::new(source) })
}

/// Deletes the Jobs of the model, of which none is of what it declares now.
async fn end_others(client: &Client, namespace: &str, owner: &OwnerReference) -> Result<(), ApplyError> {
    let jobs = jobs(client, namespace);
    let listed = jobs.list(&ListParams::default().labels(&replica::selector(IMPORT))).await;
    let listed = listed.map_err(|source| ApplyError::Read { kind: JOB.to_owned(), name: owner.name.clone(), source: Box::new(source) })?;
    for job in listed.items.iter().filter(|job| job.owner_references().iter().any(|owned| owned.uid == owner.uid)) {
        let name = job.name_any();
        match jobs.delete(&name, &DeleteParams::background()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(ApplyError::Delete { kind: JOB.to_owned(), name, source: Box::new(source) }),
        }
    }
    Ok(())
}

/// What follows from a Job and the last words of its newest pod that has ended. Pure.
fn judge(job: &Job, words: Option<&str>, source: &ImportSource) -> Standing {
    let said = words.and_then(|words| serde_json::from_str::<LastWords>(words).ok());
    let why = || match (&said, words) {
        (Some(LastWords::Failed { message }), _) => message.clone(),
        (None, Some(words)) if !words.trim().is_empty() => words.trim().chars().take(MESSAGE_LIMIT).collect(),
        _ => "it ended without a word".to_owned(),
    };
    let holds = |kind: &str| {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if let Some(LastWords::Imported { content, sha256, family, bytes }) = &said {
        let family = family.as_ref().and_then(|name| serde_json::from_value(name.clone().into()).ok());
        let (content, sha256, bytes) = (content.clone(), sha256.clone(), *bytes);
        return Standing::In(Imported { source: source.digest(), content, sha256, family, bytes });
    }
    if let Some(failed) = holds("Failed") {
        let ended = if failed.reason.as_deref() == Some("DeadlineExceeded") { "it took too long".to_owned() } else { why() };
        return Standing::Failed { message: ended };
    }
    let message = match words {
        Some(_) => format!("the import is tried again, after it failed: {}", why()),
        None => RUNS.to_owned(),
    };
    Standing::Coming { message }
}

fn jobs(client: &Client, namespace: &str) -> Api<Job> {
    Api::namespaced(client.clone(), namespace)
}

async fn find(client: &Client, namespace: &str, name: &str) -> Result<Option<Job>, ApplyError> {
    let found = jobs(client, namespace).get_opt(name).await;
    found.map_err(|source| ApplyError::Read { kind: JOB.to_owned(), name: name.to_owned(), source: Box::new(source) })
}

/// Of the newest pod of the Job that has ended.
async fn last_words(client: &Client, namespace: &str, job: &str) -> Result<Option<String>, ApplyError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let listed = pods.list(&of_job).await;
    let listed = listed.map_err(|source| ApplyError::Read { kind: "Pod".to_owned(), name: job.to_owned(), source: Box::new(source) })?;
    let mut ended: Vec<(Option<_>, Option<String>)> = listed
        .items
        .iter()
        .filter_map(|pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            let import = statuses.iter().find(|status| status.name == CONTAINER)?;
            let terminated = import.state.as_ref()?.terminated.as_ref()?;
            Some((pod.creation_timestamp(), terminated.message.clone()))
        })
        .collect();
    ended.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(ended.pop().map(|(_, message)| message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn source() -> ImportSource {
        ImportSource::of(&serde_json::from_value(json!({"source": {"uri": "hf://acme/sdxl"}})).unwrap()).unwrap()
    }

    fn job(conditions: &Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "j"}, "status": {"conditions": conditions}})).unwrap()
    }

    #[test]
    fn an_import_that_said_so_is_in() {
        let words = json!({
            "result": "imported", "content": "c", "sha256": "s", "family": "sdxl", "bytes": 7, "tensors": 2, "fromTheFuture": true,
        });
        let Standing::In(imported) = judge(&job(&json!([])), Some(&words.to_string()), &source()) else { panic!("not in") };
        assert_eq!((imported.content.as_str(), imported.bytes, imported.source), ("c", 7, source().digest()));
        assert_eq!(imported.family, Some(crds::model_deployment::Family::Sdxl));
    }

    #[test]
    fn what_failed_says_why_and_whether_it_goes_on() {
        let failed = json!([{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}]);
        let words = json!({"result": "failed", "message": "404; there is no such file", "permanent": true}).to_string();
        let why = |conditions: &Value, words: Option<&str>| judge(&job(conditions), words, &source());
        assert_eq!(why(&failed, Some(&words)), Standing::Failed { message: "404; there is no such file".to_owned() });
        let Standing::Coming { message } = why(&json!([]), Some(&words)) else { panic!("given up") };
        assert!(message.contains("tried again") && message.contains("404"), "{message}");
        assert_eq!(why(&json!([]), None), Standing::Coming { message: RUNS.to_owned() });
        assert_eq!(why(&failed, Some("killed: out of memory\n")), Standing::Failed { message: "killed: out of memory".to_owned() });
        let late = json!([{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]);
        assert_eq!(why(&late, None), Standing::Failed { message: "it took too long".to_owned() });
    }
}
