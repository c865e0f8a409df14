//! Reads a folder of manifests once: finds the files, splits the documents, resolves what is relative. One bad document costs only itself.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crds::import::ImportSource;
use crds::model_deployment::{ModelKind, Source};
use crds::{Manifest, ManifestError, ModelDeployment};
use serde::Deserialize;
use serde_json::Value;

use super::{Model, Snapshot, WeightFiles, Weights, kind_name};

/// Manifest files of one folder. Ten thousand models fit twice.
const FILES_LIMIT: usize = 20_000;
/// Entries looked at while searching, so that a wrong `--manifests` (a home folder, say) ends soon.
const ENTRIES_LIMIT: usize = 200_000;
/// Bytes of one manifest file.
const FILE_LIMIT_BYTES: u64 = 1024 * 1024;
/// Folders within folders.
const DEPTH_LIMIT: usize = 8;
/// Bytes of a scheduler's configuration in a model's folder.
const CONFIG_LIMIT_BYTES: u64 = 256 * 1024;

/// What is read again when it differs: each file's path, time and size, and whether each model's folder is there.
pub(super) type Fingerprint = Vec<(PathBuf, Option<std::time::SystemTime>, u64)>;

/// The manifest files below `folder`, in order of their paths.
pub(super) fn manifest_files(folder: &Path) -> std::io::Result<(Vec<PathBuf>, Vec<String>)> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    let mut folders = vec![(folder.to_owned(), 0)];
    let mut entries_seen = 0;
    while let Some((current, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                problems.push(format!("{}: {error}", current.display()));
                continue;
            }
        };
        for entry in entries.flatten() {
            entries_seen += 1;
            if entries_seen > ENTRIES_LIMIT || files.len() >= FILES_LIMIT {
                problems.push(format!("{} holds too many files; those beyond the first were left out", folder.display()));
                files.sort();
                return Ok((files, problems));
            }
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            // `file_type` does not follow links, so that no circle of folders is walked.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !hidden && depth < DEPTH_LIMIT {
                folders.push((path, depth + 1));
            } else if !is_folder && !hidden && is_manifest(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok((files, problems))
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

pub(super) fn fingerprint(files: &[PathBuf], snapshot: &Snapshot) -> Fingerprint {
    let folders = snapshot.models.values().filter_map(|model| model.weights.as_ref().ok()?.paths().next().cloned());
    let stamp = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (path, modified, metadata.map_or(0, |metadata| metadata.len()))
    };
    files.iter().cloned().chain(folders).map(stamp).collect()
}

/// Reads the files. Of two models with one id the one that `previous` had keeps it, else the first.
pub(super) fn read(files: &[PathBuf], mut problems: Vec<String>, previous: Option<&Snapshot>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut models: Vec<Model> = Vec::new();
    for path in files {
        match read_file(path) {
            Ok(documents) => {
                for (index, document) in documents.into_iter().enumerate() {
                    let origin = format!("{} (document {})", path.display(), index + 1);
                    add(&mut snapshot, &mut models, document, path, &origin).unwrap_or_else(|problem| problems.push(problem));
                }
            }
            Err(reason) => problems.push(format!("{}: {reason}", path.display())),
        }
    }
    // Stable: among equals the order of the files decides.
    models.sort_by_key(|model| {
        previous.and_then(|previous| previous.models.get(&model.model_id)).is_none_or(|old| old.origin != model.origin)
    });
    for model in models {
        match snapshot.models.get(&model.model_id) {
            Some(owner) => problems.push(format!(
                "{}: Conflict: the modelId {} already belongs to the ModelDeployment in {}; give this one another",
                model.origin, model.model_id, owner.origin
            )),
            None => {
                if let (Err(reason), None) = (&model.weights, &model.import) {
                    problems.push(format!("{}: the model {} cannot be served: {reason}", model.origin, model.model_id));
                }
                snapshot.models.insert(model.model_id.clone(), Arc::new(model));
            }
        }
    }
    let unusable = |model: &Arc<Model>| {
        let reason = snapshot.declared_vae(model).err().or_else(|| snapshot.declared_adapters(model).err())?;
        Some(format!("{}: the model {} cannot be served: {reason}", model.origin, model.model_id))
    };
    problems.extend(snapshot.models.values().filter_map(unusable));
    snapshot.problems = problems;
    snapshot
}

fn read_file(path: &Path) -> Result<Vec<Result<Value, String>>, String> {
    let text = read_bounded(path, FILE_LIMIT_BYTES)?;
    let documents = serde_yaml::Deserializer::from_str(&text);
    let mut values = Vec::new();
    for document in documents {
        match Value::deserialize(document) {
            Ok(Value::Null) => {}
            Ok(value) => values.push(Ok(value)),
            // What follows a document that is no YAML cannot be told apart from it.
            Err(error) => {
                values.push(Err(format!("not valid YAML: {error}")));
                break;
            }
        }
    }
    Ok(values)
}

fn read_bounded(path: &Path, limit_bytes: u64) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(limit_bytes + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > limit_bytes {
        return Err(format!("larger than {limit_bytes} bytes; split it into several files"));
    }
    Ok(text)
}

fn add(snapshot: &mut Snapshot, models: &mut Vec<Model>, document: Result<Value, String>, path: &Path, origin: &str) -> Result<(), String> {
    let document = document.map_err(|reason| format!("{origin}: {reason}"))?;
    let manifest = match Manifest::from_value(document) {
        Ok(manifest) => manifest,
        // A folder may hold other people's objects, such as a Namespace.
        Err(ManifestError::Foreign { .. }) => return Ok(()),
        Err(error) => return Err(format!("{origin}: {error}")),
    };
    let name = manifest.name().to_owned();
    let taken = match manifest {
        Manifest::ModelDeployment(deployment) => {
            models.push(model(&deployment, path, origin));
            false
        }
        Manifest::TenantPlan(plan) => !insert_new(&mut snapshot.plans, &name, plan.spec),
        Manifest::RuntimePool(pool) => !insert_new(&mut snapshot.pools, &name, pool.spec),
    };
    if taken { Err(format!("{origin}: {name} is declared already; names are unique within a kind")) } else { Ok(()) }
}

fn insert_new<T>(map: &mut std::collections::BTreeMap<String, T>, name: &str, value: T) -> bool {
    let is_new = !map.contains_key(name);
    if is_new {
        map.insert(name.to_owned(), value);
    }
    is_new
}

fn model(deployment: &ModelDeployment, path: &Path, origin: &str) -> Model {
    let spec = &deployment.spec;
    let manifest_folder = path.parent().unwrap_or(Path::new("."));
    let import = ImportSource::of(spec);
    let weights = match spec.kind {
        _ if import.is_some() => Err("its weights are not imported yet".to_owned()),
        ModelKind::Checkpoint => checkpoint(&spec.source, manifest_folder),
        ModelKind::Lora | ModelKind::Embedding | ModelKind::Vae => single_file(&spec.source, manifest_folder),
        kind => Err(format!("it is {}, which is not served yet", kind_name(kind))),
    };
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since_1970 = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let created_at = since_1970.map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    // A configuration replaces what the file itself would have.
    let own_sampler = weights.as_ref().ok().and_then(|weights| own_sampler(weights.paths().last()?));
    // A namespace in a manifest means nothing here.
    Model { own_sampler, import, namespace: String::new(), ..Model::declared(deployment, weights, created_at, origin.to_owned()) }
}

/// A folder in diffusers' layout, or one .safetensors file, maybe with the folder of its configuration.
fn checkpoint(source: &Source, manifest_folder: &Path) -> Result<Weights, String> {
    let path = path(&source.uri, manifest_folder)?;
    if !path.is_dir() && !is_safetensors(&path) {
        return Err(format!("{} is neither a folder in diffusers' layout nor a .safetensors file", path.display()));
    }
    let config = source.config.as_deref().map(|uri| self::path(uri, manifest_folder)).transpose()?;
    if let Some(config) = &config
        && (path.is_dir() || !config.is_dir())
    {
        return Err(format!("its config {} must be a folder, for a source that is a file", config.display()));
    }
    Ok(Weights::Files(WeightFiles { uri: file_uri(&path), path, config, sha256: source.sha256.clone() }))
}

/// A .safetensors file, or the only one in a folder.
fn single_file(source: &Source, manifest_folder: &Path) -> Result<Weights, String> {
    let mut path = path(&source.uri, manifest_folder)?;
    if path.is_dir() {
        let entries = std::fs::read_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut files = entries.take(ENTRIES_LIMIT).flatten().map(|entry| entry.path()).filter(|path| is_safetensors(path));
        path = match (files.next(), files.next()) {
            (Some(file), None) => file,
            (None, _) => return Err(format!("{} holds no .safetensors file", path.display())),
            (Some(_), Some(_)) => {
                return Err(format!("{} holds more than one .safetensors file; name the one that is meant", path.display()));
            }
        };
    } else if !is_safetensors(&path) {
        return Err(format!("{} is no .safetensors file", path.display()));
    }
    Ok(Weights::Files(WeightFiles { uri: file_uri(&path), path, config: None, sha256: source.sha256.clone() }))
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// `file:///absolute` as it stands, `file://./relative` below the manifest's folder.
fn path(uri: &str, manifest_folder: &Path) -> Result<PathBuf, String> {
    let Some(path) = uri.strip_prefix("file://") else {
        return Err(format!(
            "its source {uri} is read on a cluster only, or of a kind that is not imported; name the file as file:///absolute/path"
        ));
    };
    let path = decode(path).ok_or_else(|| format!("its source {uri} is no valid file:// URI"))?;
    let path = if path.is_absolute() { path } else { manifest_folder.join(path) };
    path.canonicalize().map_err(|error| format!("{}: {error}", clean(&path).display()))
}

/// For messages: without `.` parts.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// A path that is percent-encoded; `None` if it cannot be one.
pub(super) fn decode(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            let mut decoded = [0];
            hex::decode_to_slice(digits, &mut decoded).ok()?;
            bytes.extend(decoded);
            rest = tail;
        } else {
            bytes.push(first);
        }
    }
    // A NUL is in no path.
    (!bytes.contains(&0)).then(|| String::from_utf8(bytes).ok()).flatten().map(PathBuf::from)
}

pub(crate) fn file_uri(folder: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file://");
    for &byte in folder.as_os_str().as_bytes() {
        match byte {
            b'%' | b'#' | b'?' => uri.push_str(&format!("%{byte:02X}")),
            b'!'..=b'~' => uri.push(char::from(byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// The class name in the model's own scheduler configuration.
fn own_sampler(folder: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct SchedulerConfig {
        #[serde(rename = "_class_name")]
        class_name: String,
    }
    let text = read_bounded(&folder.join("scheduler/scheduler_config.json"), CONFIG_LIMIT_BYTES).ok()?;
    // diffusers writes numbers that JSON does not have, which YAML reads.
    let config: SchedulerConfig = serde_json::from_str(&text).ok().or_else(|| serde_yaml::from_str(&text).ok())?;
    (config.class_name.len() <= 64).then_some(config.class_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_decoded_and_encoded() {
        assert_eq!(decode("/a%20b/c"), Some(PathBuf::from("/a b/c")));
        assert_eq!(decode("/a%2"), None);
        assert_eq!(decode("/a%zz"), None);
        assert_eq!(decode("/a%00"), None);
        assert_eq!(file_uri(Path::new("/a b/ü%")), "file:///a%20b/%C3%BC%25");
    }

    #[test]
    fn sources_that_need_a_cluster_or_lead_nowhere_say_so() {
        let source = |uri: &str| Source { uri: uri.to_owned(), sha256: None, secret_ref: None, config: None };
        assert!(checkpoint(&source("pvc://claim/model"), Path::new("/")).is_err_and(|reason| reason.contains("cluster")));
        let missing = checkpoint(&source("file://./nowhere"), Path::new("/manifests")).unwrap_err();
        assert!(missing.contains("/manifests/nowhere"), "{missing}");
    }

    #[test]
    fn checkpoints_are_a_folder_or_a_file_with_a_folder_of_configurations() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("model")).unwrap();
        for file in ["one.safetensors", "one.ckpt"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let read = |uri: &str, config: Option<&str>| {
            let config = config.map(|name| format!("file://./{name}"));
            checkpoint(&Source { uri: format!("file://./{uri}"), sha256: None, secret_ref: None, config }, &root)
        };
        let paths = |uri: &str, config| read(uri, config).unwrap().paths().cloned().collect::<Vec<_>>();
        assert_eq!(paths("model", None), [root.join("model")]);
        assert_eq!(paths("one.safetensors", None), [root.join("one.safetensors")]);
        assert_eq!(paths("one.safetensors", Some("model")), [root.join("one.safetensors"), root.join("model")]);
        assert!(read("one.ckpt", None).unwrap_err().contains("nor a .safetensors file"));
        assert!(read("model", Some("model")).unwrap_err().contains("for a source that is a file"));
        assert!(read("one.safetensors", Some("one.ckpt")).unwrap_err().contains("must be a folder"));
    }

    #[test]
    fn adapters_are_one_file_alone_or_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let found = |name: &str| {
            let source = Source { uri: format!("file://./{name}"), sha256: None, secret_ref: None, config: None };
            single_file(&source, &root).map(|weights| weights.paths().next().unwrap().strip_prefix(&root).unwrap().to_owned())
        };
        for file in ["ink.safetensors", "alone/oil.safetensors", "alone/README.md", "two/a.safetensors", "two/b.safetensors", "x.ckpt"] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::create_dir(root.join("none")).unwrap();
        assert_eq!(found("ink.safetensors"), Ok("ink.safetensors".into()));
        assert_eq!(found("alone"), Ok("alone/oil.safetensors".into()));
        for (name, reason) in [
            ("two", "more than one .safetensors file"),
            ("none", "no .safetensors file"),
            ("x.ckpt", "no .safetensors file"),
            ("gone", "gone"),
        ] {
            assert!(found(name).is_err_and(|problem| problem.contains(reason)), "{name}");
        }
    }
}
