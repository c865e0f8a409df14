//! A catalog with what was imported: each model whose source must be imported first is served from the content store once it is in, and
//! until then says how that stands. Where the models themselves are declared is another catalog's business.

use std::sync::Arc;

use crds::import::ImportSource;
use tokio::sync::watch;

use super::{Catalog, Model, Snapshot, Weights};
use crate::imports::{ImportState, ImportStates, Importer, key};

/// Declared models, with what became of their imports.
#[derive(Debug)]
pub struct ImportedCatalog {
    current: watch::Sender<Arc<Snapshot>>,
}

impl ImportedCatalog {
    /// Has what `declared` declares imported from now on; what was imported before can be served at once.
    pub async fn start(declared: Arc<dyn Catalog>, importer: Importer) -> Arc<Self> {
        let (mut declarations, mut states) = (declared.changes(), importer.states());
        let catalog = Arc::new(Self { current: watch::Sender::default() });
        let snapshot = declarations.borrow_and_update().clone();
        importer.want(&sources(&snapshot)).await;
        catalog.replace(&snapshot, &states.borrow_and_update());
        tokio::spawn({
            let catalog = Arc::clone(&catalog);
            async move {
                loop {
                    tokio::select! {
                        changed = declarations.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            let snapshot = declarations.borrow_and_update().clone();
                            importer.want(&sources(&snapshot)).await;
                        }
                        changed = states.changed() => if changed.is_err() { return },
                    }
                    let snapshot = declarations.borrow().clone();
                    catalog.replace(&snapshot, &states.borrow_and_update());
                }
            }
        });
        catalog
    }

    fn replace(&self, declared: &Snapshot, states: &ImportStates) {
        self.current.send_if_modified(|current| {
            let next = merged(declared, states, current);
            let is_other = next.models != current.models
                || next.plans != current.plans
                || next.pools != current.pools
                || next.problems != current.problems;
            if is_other {
                *current = Arc::new(next);
            }
            is_other
        });
    }
}

impl Catalog for ImportedCatalog {
    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }
}

fn sources(snapshot: &Snapshot) -> Vec<ImportSource> {
    snapshot.models.values().filter_map(|model| model.import.clone()).collect()
}

/// What is declared, with each import as it stands. A model whose source was changed stays with what it had until the new is in.
fn merged(declared: &Snapshot, states: &ImportStates, previous: &Snapshot) -> Snapshot {
    let mut models = declared.models.clone();
    for model in models.values_mut() {
        let Some(import) = &model.import else { continue };
        let before = previous.models.get(&model.model_id).filter(|before| before.import.is_some() && before.weights.is_ok());
        *model = Arc::new(imported(model, states.get(&key(import)), before.map(AsRef::as_ref)));
    }
    Snapshot { models, ..declared.clone() }
}

fn imported(model: &Model, state: Option<&ImportState>, before: Option<&Model>) -> Model {
    let weights = match state {
        Some(ImportState::Done(imported)) => {
            let family = imported.family.as_ref().and_then(|name| serde_json::from_value(name.clone().into()).ok());
            return Model {
                weights: Ok(Weights::Content { digest: imported.content.clone() }),
                family: model.family.or(family),
                own_sampler: imported.sampler.clone(),
                ..model.clone()
            };
        }
        Some(ImportState::Failed { message }) => Err(format!("its import failed: {message}")),
        Some(ImportState::Running { progress }) => Err(format!("its weights are being imported: {progress}")),
        Some(ImportState::Waiting) | None => Err("its weights wait to be imported".to_owned()),
    };
    match before {
        Some(before) => Model {
            weights: before.weights.clone(),
            family: model.family.or(before.family),
            own_sampler: before.own_sampler.clone(),
            ..model.clone()
        },
        None => Model { weights, ..model.clone() },
    }
}

#[cfg(test)]
mod tests {
    use crds::model_deployment::{Family, ModelKind};
    use runtime_api::Imported;

    use super::*;
    use crate::catalog::tests::{model, snapshot};

    fn source(uri: &str) -> ImportSource {
        ImportSource { uri: uri.to_owned(), kind: ModelKind::Checkpoint, sha256: None, config: None, secret: None }
    }

    fn declared(uri: &str) -> Snapshot {
        snapshot([
            Model { weights: Err("not imported".to_owned()), family: None, own_sampler: None, import: Some(source(uri)), ..model("hub") },
            model("demo"),
        ])
    }

    fn done(digest: &str) -> ImportState {
        ImportState::Done(Imported {
            content: digest.to_owned(),
            sha256: String::new(),
            family: Some("sdxl".to_owned()),
            sampler: Some("EulerDiscreteScheduler".to_owned()),
            bytes: 1,
            tensors: 1,
        })
    }

    fn states(uri: &str, state: ImportState) -> ImportStates {
        ImportStates::from([(key(&source(uri)), state)])
    }

    #[test]
    fn a_model_says_how_its_import_stands_until_it_is_in() {
        let reason = |state| {
            merged(&declared("hf://a/b"), &states("hf://a/b", state), &Snapshot::default()).models["hub"].weights.clone().unwrap_err()
        };
        assert!(reason(ImportState::Waiting).contains("wait"));
        assert!(reason(ImportState::Running { progress: "half".to_owned() }).contains("half"));
        assert!(reason(ImportState::Failed { message: "404".to_owned() }).contains("404"));
        let snapshot = merged(&declared("hf://a/b"), &states("hf://a/b", done("d")), &Snapshot::default());
        let model = &snapshot.models["hub"];
        assert_eq!(model.weights, Ok(Weights::Content { digest: "d".to_owned() }));
        assert_eq!((model.family, model.own_sampler.as_deref()), (Some(Family::Sdxl), Some("EulerDiscreteScheduler")));
        assert!(snapshot.models["demo"].weights.is_ok());
    }

    #[test]
    fn what_was_in_stays_until_the_new_source_is() {
        let first = merged(&declared("hf://a/b"), &states("hf://a/b", done("old")), &Snapshot::default());
        let waiting = merged(&declared("hf://a/c"), &states("hf://a/c", ImportState::Failed { message: "404".to_owned() }), &first);
        assert_eq!(waiting.models["hub"].weights, Ok(Weights::Content { digest: "old".to_owned() }));
        let next = merged(&declared("hf://a/c"), &states("hf://a/c", done("new")), &waiting);
        assert_eq!(next.models["hub"].weights, Ok(Weights::Content { digest: "new".to_owned() }));
    }
}
