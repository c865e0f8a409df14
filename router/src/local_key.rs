//! The key of the person at this machine: made at the first start, kept in a file only they may read, shown at every start.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::accounts::ApiKey;
use crate::catalog::Snapshot;
use crate::local::LocalError;
use crate::store::Store;

const FILE_NAME: &str = "local-key";
const TENANT_NAME: &str = "local";
/// The first of these that is declared; else any that is.
const PREFERRED_PLANS: [&str; 2] = ["unlimited", "enterprise"];

/// The key in the data folder; makes it, and its tenant, where there is none. `None` where no plan is declared.
pub(crate) async fn load_or_create(data_dir: &Path, store: &dyn Store, catalog: &Snapshot) -> Result<Option<ApiKey>, LocalError> {
    let path = data_dir.join(FILE_NAME);
    let file_error = |source| LocalError::KeyFile { path: path.display().to_string(), source };
    let kept = match std::fs::read_to_string(&path) {
        Ok(text) => ApiKey::parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(file_error(source)),
    };
    if let Some(key) = &kept
        && let Some(caller) = store.find_caller(key.hash()).await?
        && catalog.plans.contains_key(&caller.plan)
    {
        return Ok(kept);
    }
    let preferred = PREFERRED_PLANS.into_iter().find(|plan| catalog.plans.contains_key(*plan));
    let Some(plan) = preferred.or_else(|| catalog.plans.keys().next().map(String::as_str)) else { return Ok(None) };
    let key = ApiKey::generate();
    // The file first: a key that is in the store alone is lost, one that is in the file alone is replaced at the next start.
    write(&path, &key).map_err(file_error)?;
    store.add_key(TENANT_NAME, plan, key.hash()).await?;
    Ok(Some(key))
}

/// Whole or not at all.
fn write(path: &Path, key: &ApiKey) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{}", key.expose())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::sqlite::SqliteStore;

    fn catalog(plans: &[&str]) -> Snapshot {
        let spec = serde_json::json!({"requestsPerMinute": 60, "burst": 20, "parallelImages": 1, "queueDepth": 10});
        Snapshot {
            plans: plans.iter().map(|plan| ((*plan).to_owned(), serde_json::from_value(spec.clone()).unwrap())).collect(),
            ..Snapshot::default()
        }
    }

    #[tokio::test]
    async fn the_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("emulsion.sqlite")).await.unwrap();
        assert_eq!(load_or_create(folder.path(), &store, &catalog(&[])).await.unwrap(), None);
        let plans = catalog(&["free", "unlimited"]);
        let key = load_or_create(folder.path(), &store, &plans).await.unwrap().unwrap();
        assert_eq!(load_or_create(folder.path(), &store, &plans).await.unwrap(), Some(key.clone()));
        let caller = store.find_caller(key.hash()).await.unwrap().unwrap();
        assert_eq!((caller.tenant_name.as_str(), caller.plan.as_str()), ("local", "unlimited"));
        let mode = std::fs::metadata(folder.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_key_whose_plan_is_gone_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("emulsion.sqlite")).await.unwrap();
        let first = load_or_create(folder.path(), &store, &catalog(&["unlimited"])).await.unwrap();
        let second = load_or_create(folder.path(), &store, &catalog(&["free"])).await.unwrap();
        assert!(second.is_some() && first != second);
    }
}
