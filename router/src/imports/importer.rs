//! Who starts imports where there is no cluster: for each source that is declared one at a time, a few of all at once, with pauses that grow
//! while it fails. What was imported once is remembered in the content store.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::import::ImportSource;
use ipnet::IpNet;
use runtime_api::{ImportResult, Imported};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::process::{self, Surroundings};
use super::{ImportState, key, secrets};
use crate::content::{Content, Document};
use crate::sha256_name::Sha256Name;

/// Imports that run at once: they share one line to the world and one disk.
const IMPORTS_AT_ONCE: usize = 2;
/// Before the second attempt at what may pass; it doubles from attempt to attempt.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// Before the second attempt at what will hardly pass: somebody has to mend it.
const PAUSE_FIRST_PERMANENT: Duration = Duration::from_secs(60);
const PAUSE_LIMIT: Duration = Duration::from_secs(600);

/// How imports are run.
#[derive(Clone)]
pub struct ImportSettings {
    /// The `emulsion-runtime` to run.
    pub program: PathBuf,
    /// Where [`super::routes`] are served.
    pub router_url: String,
    pub installation_token: String,
    /// Inside networks and hosts that sources may be in.
    pub allow_networks: Vec<IpNet>,
    pub allow_hosts: Vec<String>,
    /// Has a folder for each Secret.
    pub secrets: PathBuf,
    /// For what imports leave behind for a moment.
    pub work_folder: PathBuf,
}

impl std::fmt::Debug for ImportSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ImportSettings").field("program", &self.program).finish_non_exhaustive()
    }
}

/// How every declared source stands.
pub type ImportStates = BTreeMap<Sha256Name, ImportState>;

/// Starts imports, and tells how they stand. Dropping the last handle ends them.
#[derive(Clone, Debug)]
pub struct Importer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: ImportSettings,
    content: Content,
    /// What runs for each source; dropping it ends that.
    wanted: Mutex<HashMap<Sha256Name, Wanted>>,
    states: watch::Sender<ImportStates>,
    turns: Semaphore,
}

/// Somebody wants the source.
#[derive(Debug)]
struct Wanted(CancellationToken);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Importer {
    pub fn new(settings: ImportSettings, content: Content) -> std::io::Result<Self> {
        std::fs::create_dir_all(&settings.work_folder)?;
        let inner =
            Inner { settings, content, wanted: Mutex::default(), states: watch::Sender::default(), turns: Semaphore::new(IMPORTS_AT_ONCE) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How the sources that are wanted stand, and each change of it.
    pub fn states(&self) -> watch::Receiver<ImportStates> {
        self.inner.states.subscribe()
    }

    /// These sources are wanted from now on, and no others. Returns when it is known which of them were imported before.
    pub async fn want(&self, sources: &[ImportSource]) {
        let inner = &self.inner;
        let keyed: BTreeMap<Sha256Name, &ImportSource> = sources.iter().map(|source| (key(source), source)).collect();
        inner.lock().retain(|key, _| keyed.contains_key(key));
        inner.states.send_if_modified(|states| {
            let before = states.len();
            states.retain(|key, _| keyed.contains_key(key));
            states.len() != before
        });
        for (key, source) in keyed {
            if inner.lock().contains_key(&key) {
                continue;
            }
            let stop = CancellationToken::new();
            inner.lock().insert(key, Wanted(stop.clone()));
            match inner.recall(key).await {
                Some(imported) => inner.set(key, ImportState::Done(imported)),
                None => {
                    inner.set(key, ImportState::Waiting);
                    // Not kept alive by its own work: it ends with the last handle.
                    let (inner, source) = (Arc::downgrade(inner), source.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = keep_trying(&inner, key, &source) => {}
                        }
                    });
                }
            }
        }
    }
}

/// Imports until it is in.
async fn keep_trying(inner: &std::sync::Weak<Inner>, key: Sha256Name, source: &ImportSource) {
    let mut attempts: u32 = 0;
    while let Some(inner) = inner.upgrade() {
        let permanent = match inner.attempt(key, source).await {
            ImportResult::Imported(imported) => return inner.set(key, ImportState::Done(imported)),
            ImportResult::Failed { message, permanent } => {
                tracing::warn!(source = source.shown(), "the import failed: {message}");
                inner.set(key, ImportState::Failed { message });
                permanent
            }
        };
        drop(inner);
        let first = if permanent { PAUSE_FIRST_PERMANENT } else { PAUSE_FIRST };
        tokio::time::sleep(first.saturating_mul(2_u32.saturating_pow(attempts)).min(PAUSE_LIMIT)).await;
        attempts = attempts.saturating_add(1);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Sha256Name, Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, key: Sha256Name, state: ImportState) {
        // What is no longer wanted has no state.
        if self.lock().contains_key(&key) {
            self.states.send_modify(|states| drop(states.insert(key, state)));
        }
    }

    /// What an earlier import of the same declaration brought, if that is still there.
    async fn recall(&self, key: Sha256Name) -> Option<Imported> {
        let found = async {
            let Some(bytes) = self.content.read(Document::Import(key)).await? else { return Ok(None) };
            let imported: Imported = serde_json::from_slice(&bytes)?;
            let digest = Sha256Name::parse(&imported.content).unwrap_or(Sha256Name::NOTHING);
            Ok(self.content.manifest(digest).await?.map(|_| imported))
        };
        found.await.unwrap_or_else(|error: crate::content::ContentError| {
            tracing::warn!("what was imported before cannot be read, and is imported again: {error}");
            None
        })
    }

    async fn attempt(&self, key: Sha256Name, source: &ImportSource) -> ImportResult {
        let failed = |message| ImportResult::Failed { message, permanent: false };
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        self.set(key, ImportState::Running { progress: "it begins".to_owned() });
        let credentials = source.secret.as_ref().map_or(Ok(Vec::new()), |name| secrets::read(&self.settings.secrets, name));
        let credentials = match credentials {
            Ok(credentials) => credentials,
            Err(message) => return failed(message),
        };
        tracing::info!(source = source.shown(), "importing");
        let surroundings = Surroundings {
            program: self.settings.program.clone(),
            router_url: self.settings.router_url.clone(),
            installation_token: self.settings.installation_token.clone(),
            allow_networks: self.settings.allow_networks.clone(),
            allow_hosts: self.settings.allow_hosts.clone(),
        };
        let result = self.settings.work_folder.join(format!("{}.json", key.text()));
        let tell = |progress| self.set(key, ImportState::Running { progress });
        let ended = process::run(&surroundings, source, credentials, &result, tell).await;
        let imported = match ended {
            ImportResult::Imported(imported) => imported,
            failed => return failed,
        };
        let digest = Sha256Name::parse(&imported.content).unwrap_or(Sha256Name::NOTHING);
        // An import's word is not enough: what it says must be in the store.
        let noted = async {
            if self.content.manifest(digest).await?.is_none() {
                return Ok(false);
            }
            let bytes = serde_json::to_vec(&imported)?;
            self.content.write(Document::Import(key), bytes.into()).await.map(|()| true)
        };
        match noted.await {
            Ok(true) => {
                tracing::info!(source = source.shown(), bytes = imported.bytes, digest = imported.content, "imported");
                ImportResult::Imported(imported)
            }
            Ok(false) => failed("the import says that it is done, and its manifest is not in the store".to_owned()),
            Err(error) => failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use crds::model_deployment::ModelKind;
    use runtime_api::{ContentFile, ContentManifest};

    use super::*;
    use crate::content::FolderContent;
    use crate::outputs::Secret;

    const SOON: Duration = Duration::from_secs(20);

    fn source(uri: &str) -> ImportSource {
        ImportSource { uri: uri.to_owned(), kind: ModelKind::Checkpoint, sha256: None, config: None, secret: None }
    }

    /// Imports that are a shell script with its result's path in `$result`; each start writes its arguments to `starts`.
    fn importer(folder: &Path, script: &str) -> Importer {
        let draft = folder.join("draft");
        let text = format!(
            "#!/bin/sh\ncd {}\necho \"$EMULSION_IMPORT_SOURCE $@ ${{HF_TOKEN}}\" >> starts\nwhile [ $# -gt 0 ]; do [ \"$1\" = --result ] && result=$2; shift; done\n{script}\n",
            folder.display()
        );
        std::fs::write(&draft, text).unwrap();
        let program = folder.join("import");
        assert!(std::process::Command::new("install").args(["-m", "755"]).args([&draft, &program]).status().unwrap().success());
        let secret = Secret::from_bytes([7; 32]);
        let store = Arc::new(FolderContent::open(&folder.join("content"), secret.clone()).unwrap());
        let settings = ImportSettings {
            program,
            router_url: "http://127.0.0.1:1".to_owned(),
            installation_token: "installation".to_owned(),
            allow_networks: Vec::new(),
            allow_hosts: Vec::new(),
            secrets: folder.join("secrets"),
            work_folder: folder.join("work"),
        };
        Importer::new(settings, Content::new(store, secret)).unwrap()
    }

    fn starts(folder: &Path) -> Vec<String> {
        std::fs::read_to_string(folder.join("starts")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    async fn until(importer: &Importer, source: &ImportSource, wanted: impl Fn(&ImportState) -> bool) -> ImportState {
        let key = key(source);
        let mut states = importer.states();
        let reached = states.wait_for(|states| states.get(&key).is_some_and(&wanted));
        tokio::time::timeout(SOON, reached).await.expect("in time").unwrap()[&key].clone()
    }

    /// A manifest in the store, and what an import says that brought it.
    async fn imported(importer: &Importer) -> Imported {
        let file = ContentFile { name: "a".to_owned(), bytes: 0, sha256: "0".repeat(64), chunks: Vec::new() };
        let sha256 = "1".repeat(64);
        let manifest = ContentManifest {
            files: vec![file],
            model: "a".to_owned(),
            config: None,
            family: None,
            sampler: None,
            tensors: 0,
            weight_bytes: 0,
            sha256: sha256.clone(),
        };
        let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
        let content = importer.inner.content.publish(bytes).await.unwrap().digest;
        Imported { content, sha256, family: None, sampler: None, bytes: 0, tensors: 0 }
    }

    #[tokio::test]
    async fn a_source_is_imported_once_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let importer = importer(folder.path(), "cp answer \"$result\"");
        let imported = imported(&importer).await;
        std::fs::write(folder.path().join("answer"), serde_json::to_vec(&ImportResult::Imported(imported.clone())).unwrap()).unwrap();
        let source = source("https://a.example/m.safetensors");
        importer.want(&[source.clone(), source.clone()]).await;
        assert_eq!(until(&importer, &source, |state| matches!(state, ImportState::Done(_))).await, ImportState::Done(imported.clone()));
        importer.want(&[]).await;
        assert!(importer.states().borrow().is_empty());
        importer.want(std::slice::from_ref(&source)).await;
        assert_eq!(importer.states().borrow()[&key(&source)], ImportState::Done(imported));
        assert_eq!(starts(folder.path()).len(), 1);
    }

    #[tokio::test]
    async fn an_import_that_lies_or_dies_is_a_failure_that_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let lie = serde_json::to_string(&ImportResult::Imported(Imported {
            content: "0".repeat(64),
            sha256: "0".repeat(64),
            family: None,
            sampler: None,
            bytes: 1,
            tensors: 1,
        }))
        .unwrap();
        let script = format!("[ -e died ] || {{ touch died; kill -9 $$; }}; echo 'import: half'; echo '{lie}' > \"$result\"; sleep 0.1");
        let importer = importer(folder.path(), &script);
        let source = source("https://a.example/m.safetensors");
        importer.want(std::slice::from_ref(&source)).await;
        let said =
            |word: &'static str| move |state: &ImportState| matches!(state, ImportState::Failed { message } if message.contains(word));
        until(&importer, &source, said("signal: 9")).await;
        until(&importer, &source, |state| *state == ImportState::Running { progress: "half".to_owned() }).await;
        until(&importer, &source, said("not in the store")).await;
    }

    #[tokio::test]
    async fn credentials_come_by_the_environment_and_only_where_they_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("secrets/hub")).unwrap();
        std::fs::write(folder.path().join("secrets/hub/HF_TOKEN"), "hf-secret\n").unwrap();
        let importer = importer(folder.path(), "exit 1");
        let open = source("hf://acme/open");
        let closed = ImportSource { secret: Some("hub".to_owned()), ..source("hf://acme/closed") };
        let lost = ImportSource { secret: Some("lost".to_owned()), ..source("hf://acme/lost") };
        importer.want(&[open.clone(), closed.clone(), lost.clone()]).await;
        for source in [&open, &closed, &lost] {
            let failed = until(&importer, source, |state| matches!(state, ImportState::Failed { .. })).await;
            assert!(!format!("{failed:?}").contains("hf-secret"), "{failed:?}");
        }
        let starts = starts(folder.path());
        assert_eq!(starts.iter().filter(|line| line.ends_with("hf-secret")).count(), 1, "{starts:?}");
        assert!(starts.iter().all(|line| line.ends_with("hf-secret") == line.contains("hf://acme/closed")), "{starts:?}");
        assert!(!starts.iter().any(|line| line.contains("hf://acme/lost")), "{starts:?}");
    }
}
