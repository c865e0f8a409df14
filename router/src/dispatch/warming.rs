//! Keeping the warm models of pools in the memory of their replicas: each replica is told, again and again, what is wanted, and answers how
//! that stands. A replica that starts anew, one that let a model go, a model whose import ends: the next round finds them all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crds::RuntimePoolSpec;
use crds::demand::WarmModelReport;
use crds::model_deployment::ModelKind;
use futures::StreamExt;
use runtime_api::{ImageRequest, WARM_MODELS_PATH, WarmModel, WarmModels, WarmReport};
use tokio::time::MissedTickBehavior;

use super::{Dispatcher, UPLOAD_ALLOWANCE, sources};
use crate::catalog::{Model, Snapshot, kind_name};
use crate::replicas::{Endpoint, SetKey};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(2);
/// Replicas that are told at once.
const CONCURRENCY: usize = 32;
/// For one answer; a replica that takes longer is told in the next round.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer: replicas read hostile weights, and may say anything.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

/// A model that a pool names: what its replicas are told, or why they are not.
type Wanted = (String, Result<WarmModel, String>);

impl Dispatcher {
    /// Tells replicas for as long as the future is polled.
    pub(crate) async fn keep_models_warm(&self) {
        let mut rounds = tokio::time::interval(INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Pools whose replicas keep something: they must be told, too, when nothing is wanted any more.
        let mut told = BTreeSet::new();
        let mut before = Vec::new();
        loop {
            rounds.tick().await;
            let reports = self.tell_all(&self.catalog.current(), &mut told).await;
            if reports != before {
                note(&before, &reports);
                let resident = reports.iter().filter(|report| report.replicas > 0).count();
                let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
                self.metrics.warm_models_resident.set(gauge(resident));
                self.metrics.warm_models_missing.set(gauge(reports.len() - resident));
                self.demand.set_warm_models(reports.clone());
                before = reports;
            }
        }
    }

    async fn tell_all(&self, catalog: &Snapshot, told: &mut BTreeSet<String>) -> Vec<WarmModelReport> {
        let mut reports = Vec::new();
        for (name, pool) in &catalog.pools {
            if pool.warm_models.is_empty() && !told.contains(name) {
                continue;
            }
            let wanted = self.wanted(catalog, name, pool);
            let models = wanted.iter().filter_map(|(_, model)| model.as_ref().ok()).cloned().collect();
            let (message, endpoints) = (WarmModels { models }, self.replicas.ready(&catalog.pool_set(name, pool)));
            let answers = futures::stream::iter(endpoints.into_iter().map(|endpoint| self.tell(endpoint, &message)));
            let answers: Vec<WarmReport> = answers.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await;
            reports.extend(wanted.iter().map(|wanted| report(name, wanted, &answers)));
            if pool.warm_models.is_empty() {
                told.remove(name)
            } else {
                told.insert(name.clone())
            };
        }
        reports
    }

    fn wanted(&self, catalog: &Snapshot, pool: &str, spec: &RuntimePoolSpec) -> Vec<Wanted> {
        let wanted = |id: &String| (id.clone(), servable(catalog, pool, id).and_then(|model| self.warm_model(catalog, model)));
        spec.warm_models.iter().map(wanted).collect()
    }

    fn warm_model(&self, catalog: &Snapshot, model: &Model) -> Result<WarmModel, String> {
        let sources = sources::resolve(catalog, model, &ImageRequest::text_to_image(&model.model_id, ""))?;
        let (base, expires) = (&self.settings.store_base, SystemTime::now() + UPLOAD_ALLOWANCE);
        let contents = sources.contents.iter().map(|digest| self.settings.content.source(base, digest, expires)).collect();
        Ok(WarmModel { source: sources.model, contents })
    }

    async fn tell(&self, endpoint: Endpoint, message: &WarmModels) -> Option<WarmReport> {
        match tokio::time::timeout(TIMEOUT, self.ask(&endpoint, message)).await {
            Ok(Ok(answer)) => Some(answer),
            // Calls find out by themselves whether it works.
            Ok(Err(error)) => {
                tracing::debug!("the replica {} does not say how its warm models stand: {error:#}", endpoint.base_url);
                None
            }
            Err(_) => None,
        }
    }

    async fn ask(&self, endpoint: &Endpoint, message: &WarmModels) -> anyhow::Result<WarmReport> {
        let put = self.client.put(format!("{}{WARM_MODELS_PATH}", endpoint.base_url)).bearer_auth(&endpoint.token).json(message);
        let mut answer = put.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            anyhow::ensure!(body.len() + chunk.len() <= ANSWER_LIMIT_BYTES, "its answer is larger than {ANSWER_LIMIT_BYTES} bytes");
            body.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// The model, if replicas of the pool serve it.
fn servable<'a>(catalog: &'a Snapshot, pool: &str, id: &str) -> Result<&'a Model, String> {
    let model = catalog.models.get(id).ok_or("no such model is declared")?;
    if model.kind != ModelKind::Checkpoint {
        return Err(format!("it is {}, not {}", kind_name(model.kind), kind_name(ModelKind::Checkpoint)));
    }
    model.weights.as_ref().map_err(Clone::clone)?;
    let serves = SetKey::Pool(pool.to_owned());
    let of_plans = catalog.plans.values().map(|plan| plan.pool.as_deref()).chain([None]);
    let sets: BTreeSet<SetKey> = of_plans.filter_map(|plan| Some(catalog.replica_set(model, plan).ok()?.key)).collect();
    if !sets.contains(&serves) {
        let others = sets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("calls for it never come to this pool but to {others}"));
    }
    Ok(model)
}

fn report(pool: &str, (id, wanted): &Wanted, answers: &[WarmReport]) -> WarmModelReport {
    let told = || answers.iter().flat_map(|answer| &answer.models).filter(|state| state.id == *id);
    let problem = match wanted {
        Err(problem) => Some(problem.clone()),
        Ok(_) => told().find_map(|state| state.problem.clone()),
    };
    let replicas = if wanted.is_ok() { told().filter(|state| state.resident).count() } else { 0 };
    WarmModelReport { pool: pool.to_owned(), model_id: id.clone(), replicas: u32::try_from(replicas).unwrap_or(u32::MAX), problem }
}

/// Tells people what turned.
fn note(before: &[WarmModelReport], reports: &[WarmModelReport]) {
    let key = |report: &WarmModelReport| (report.pool.clone(), report.model_id.clone());
    let before: BTreeMap<_, _> = before.iter().map(|report| (key(report), report)).collect();
    for report in reports {
        let known = before.get(&key(report));
        let WarmModelReport { pool, model_id, problem, .. } = report;
        match problem {
            Some(problem) if known.is_none_or(|known| known.problem.as_ref() != Some(problem)) => {
                tracing::warn!("the warm model {model_id} of the pool {pool} is not in memory: {problem}");
            }
            None if report.replicas > 0 && known.is_none_or(|known| known.replicas == 0) => {
                tracing::info!("the warm model {model_id} of the pool {pool} is in memory");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::model_deployment::Serving;
    use runtime_api::WarmState;

    use super::*;
    use crate::catalog::tests::{lora, model, snapshot};

    #[test]
    fn what_the_pool_cannot_serve_says_why() {
        let dedicated: Serving = serde_json::from_value(serde_json::json!({"dedicated": {}})).unwrap();
        let catalog = snapshot([
            model("demo"),
            lora("ink"),
            Model { weights: Err("the import runs".to_owned()), ..model("coming") },
            Model { serving: dedicated, ..model("own") },
        ]);
        let problem = |pool: &str, id: &str| servable(&catalog, pool, id).err();
        assert_eq!(problem("default", "demo"), None);
        assert_eq!(problem("default", "lost").as_deref(), Some("no such model is declared"));
        assert_eq!(problem("default", "ink").as_deref(), Some("it is a LoRA, not a checkpoint"));
        assert_eq!(problem("default", "coming").as_deref(), Some("the import runs"));
        assert_eq!(problem("default", "own").as_deref(), Some("calls for it never come to this pool but to model/own"));
        assert_eq!(problem("big", "demo").as_deref(), Some("calls for it never come to this pool but to pool/default"));
    }

    #[test]
    fn a_model_in_memory_anywhere_is_counted_and_a_problem_is_told() {
        let state =
            |id: &str, resident, problem: Option<&str>| WarmState { id: id.to_owned(), resident, problem: problem.map(str::to_owned) };
        let answers = [
            WarmReport { models: vec![state("a", true, None), state("b", false, None)] },
            WarmReport { models: vec![state("a", true, None), state("b", false, Some("no room"))] },
        ];
        let source =
            runtime_api::ModelSource { id: String::new(), uri: String::new(), config: None, sha256: None, vae: None, adapters: Vec::new() };
        let wanted = |id: &str| (id.to_owned(), Ok(WarmModel { source: source.clone(), contents: Vec::new() }));
        let told = |wanted: Wanted| {
            let report = report("default", &wanted, &answers);
            (report.replicas, report.problem)
        };
        assert_eq!(told(wanted("a")), (2, None));
        assert_eq!(told(wanted("b")), (0, Some("no room".to_owned())));
        assert_eq!(told(("a".to_owned(), Err("gone".to_owned()))), (0, Some("gone".to_owned())));
    }
}
