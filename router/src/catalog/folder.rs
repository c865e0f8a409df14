//! A catalog that is a folder of YAML, looked at every few seconds, so that a model added to it can be called soon after.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::reading::{Fingerprint, fingerprint, manifest_files, read};
use super::{Catalog, POLL_INTERVAL, Snapshot};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the folder of manifests {path} cannot be read: {source}; --manifests names another")]
    Folder { path: String, source: std::io::Error },
}

/// Manifests below one folder.
#[derive(Debug)]
pub struct FolderCatalog {
    folder: PathBuf,
    current: watch::Sender<Arc<Snapshot>>,
    fingerprint: Mutex<Fingerprint>,
}

impl FolderCatalog {
    /// Reads the folder once. What cannot be used is in the snapshot's `problems`.
    pub fn open(folder: &Path) -> Result<Self, CatalogError> {
        let catalog = Self { folder: folder.to_owned(), current: watch::Sender::default(), fingerprint: Mutex::default() };
        catalog.refresh()?;
        Ok(catalog)
    }

    /// Reads the folder again if anything about it changed; true if so.
    pub fn refresh(&self) -> Result<bool, CatalogError> {
        let (files, problems) =
            manifest_files(&self.folder).map_err(|source| CatalogError::Folder { path: self.folder.display().to_string(), source })?;
        let mut last = self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.current();
        // A model whose folder was missing may be served now, and only reading again tells.
        let waits_for_folder = previous.models.values().any(|model| model.weights.is_err() && model.import.is_none());
        let first = last.is_empty() && previous.models.is_empty();
        if !first && !waits_for_folder && fingerprint(&files, &previous) == *last {
            return Ok(false);
        }
        let snapshot = read(&files, problems, Some(&previous));
        *last = fingerprint(&files, &snapshot);
        let changed = is_other(&previous, &snapshot);
        if changed {
            self.current.send_replace(Arc::new(snapshot));
        }
        Ok(changed)
    }

    /// Looks at the folder again and again.
    pub async fn keep_current(self: Arc<Self>) {
        let mut reported = self.current();
        report(&Snapshot::default(), &reported);
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let catalog = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || catalog.refresh()).await {
                Ok(Ok(true)) => {
                    let current = self.current();
                    report(&reported, &current);
                    reported = current;
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!("{error}"),
                Err(error) => tracing::error!("reading the manifests failed: {error}"),
            }
        }
    }
}

impl Catalog for FolderCatalog {
    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }
}

fn is_other(previous: &Snapshot, next: &Snapshot) -> bool {
    previous.models != next.models || previous.plans != next.plans || previous.pools != next.pools || previous.problems != next.problems
}

/// Tells each problem once, when it is new.
fn report(previous: &Snapshot, current: &Snapshot) {
    for problem in current.problems.iter().filter(|problem| !previous.problems.contains(problem)) {
        tracing::warn!("manifest: {problem}");
    }
    let ids: Vec<&str> = current.models.values().filter(|model| model.weights.is_ok()).map(|model| model.model_id.as_str()).collect();
    tracing::info!("serving {} of {} models: {}", ids.len(), current.models.len(), ids.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{WeightFiles, Weights};

    struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn open(&self) -> FolderCatalog {
            FolderCatalog::open(self.folder.path()).unwrap()
        }
    }

    fn model(name: &str, uri: &str) -> String {
        format!(
            "apiVersion: emulsion.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: {name}}}\nspec: {{source: {{uri: \"{uri}\"}}}}\n"
        )
    }

    fn pool(name: &str) -> String {
        format!("apiVersion: emulsion.dev/v1alpha1\nkind: RuntimePool\nmetadata: {{name: {name}}}\nspec: {{maxReplicas: 2}}\n")
    }

    #[test]
    fn relative_sources_lie_beside_their_manifest_and_the_folders_sampler_is_read() {
        let fixture = Fixture::new();
        fixture
            .write("team/demo/scheduler/scheduler_config.json", "{\"_class_name\": \"EulerDiscreteScheduler\", \"sigma_max\": -Infinity}");
        fixture.write("team/demo.yaml", &model("demo", "file://./demo"));
        let catalog = fixture.open();
        let snapshot = catalog.current();
        assert_eq!(snapshot.problems, Vec::<String>::new());
        let demo = &snapshot.models["demo"];
        let weights = demo.weights.as_ref().unwrap();
        let path = fixture.folder.path().canonicalize().unwrap().join("team/demo");
        let files = WeightFiles { uri: format!("file://{}", path.display()), path, config: None, sha256: None };
        assert_eq!(weights, &Weights::Files(files));
        assert_eq!(demo.own_sampler.as_deref(), Some("EulerDiscreteScheduler"));
    }

    #[test]
    fn one_bad_manifest_does_not_stop_the_rest() {
        let fixture = Fixture::new();
        fixture.write("demo/x", "");
        fixture.write("a.yaml", "][ no yaml");
        fixture.write("b.yml", "apiVersion: emulsion.dev/v1alpha1\nkind: Unknown\nmetadata: {name: x}\n");
        fixture
            .write("c.yaml", &format!("---\n{}---\napiVersion: v1\nkind: Namespace\n---\n{}", model("demo", "file://./demo"), pool("big")));
        fixture.write("d.yaml", &"x".repeat(2 << 20));
        fixture.write("e.yaml", &model("Not A Name", "file://./demo"));
        let snapshot = fixture.open().current();
        assert_eq!(snapshot.models.keys().collect::<Vec<_>>(), ["demo"]);
        assert!(snapshot.pools.contains_key("big"));
        assert_eq!(snapshot.problems.len(), 4, "{:?}", snapshot.problems);
    }

    #[test]
    fn the_later_claimant_of_a_model_id_is_refused_also_when_its_file_comes_first() {
        let fixture = Fixture::new();
        fixture.write("demo/x", "");
        fixture.write("other/x", "");
        fixture.write("b.yaml", &model("demo", "file://./demo"));
        let catalog = fixture.open();
        fixture.write("a.yaml", &model("demo", "file://./other"));
        assert!(catalog.refresh().unwrap());
        let snapshot = catalog.current();
        assert!(snapshot.models["demo"].origin.contains("b.yaml"));
        assert!(
            snapshot.problems.iter().any(|problem| problem.contains("Conflict") && problem.contains("a.yaml")),
            "{:?}",
            snapshot.problems
        );
    }

    #[test]
    fn a_model_added_or_removed_later_is_seen() {
        let fixture = Fixture::new();
        let catalog = fixture.open();
        assert!(catalog.current().models.is_empty());
        fixture.write("late.yaml", &model("late", "file://./late"));
        assert!(catalog.refresh().unwrap());
        assert!(catalog.current().models["late"].weights.is_err(), "its folder is not there yet");
        assert!(!catalog.refresh().unwrap(), "nothing changed");
        fixture.write("late/x", "");
        assert!(catalog.refresh().unwrap());
        assert!(catalog.current().models["late"].weights.is_ok());
        assert!(!catalog.refresh().unwrap(), "nothing changed");
        std::fs::remove_file(fixture.folder.path().join("late.yaml")).unwrap();
        assert!(catalog.refresh().unwrap());
        assert!(catalog.current().models.is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there_tells_the_way_out() {
        let error = FolderCatalog::open(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("--manifests"), "{error}");
    }
}
