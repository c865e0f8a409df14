//! Textual inversions that a dispatch names: small files, read at the door and kept for the next request that names them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use diffusion::weights::sha256_of_file;
use runtime_api::{Dispatch, ModelSource};

use crate::engine::{Embedding, NamedEmbedding, chain};
use crate::source::ModelRoots;

/// Bytes of vectors that are kept; an embedding has a few kilobytes. The least recently used go first.
const MAX_CACHED_BYTES: usize = 64 << 20;

/// Why an embedding cannot be used. The text is for the caller.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingSourceError {
    #[error("embedding `{id}` has no source in this dispatch")]
    Missing { id: String },
    #[error("embedding `{id}`: {reason}")]
    Refused { id: String, reason: String },
}

/// The files that were read, for all who ask. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Embeddings(Arc<Mutex<Cache>>);

impl Embeddings {
    /// Opens what `dispatch.request` names, in its order. Each goes by the API's name of it and, where no other has the same, by the word its
    /// file says or else by the file's name. Reads files.
    ///
    /// # Errors
    /// [`EmbeddingSourceError`] for the first that has no source, lies outside of `roots`, or is no embedding.
    pub fn open(&self, dispatch: &Dispatch, roots: &ModelRoots) -> Result<Vec<NamedEmbedding>, EmbeddingSourceError> {
        let open = |id: &String| {
            let source = dispatch.adapters.iter().find(|source| source.id == *id);
            let source = source.ok_or_else(|| EmbeddingSourceError::Missing { id: id.clone() })?;
            self.open_one(source, roots).map_err(|reason| EmbeddingSourceError::Refused { id: id.clone(), reason })
        };
        let mut opened = dispatch.request.embeddings.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let said: Vec<String> = opened.iter().flat_map(|named| named.names.clone()).collect();
        for (named, id) in opened.iter_mut().zip(&dispatch.request.embeddings) {
            named.names.retain(|name| name == id || said.iter().filter(|other| *other == name).count() == 1);
        }
        Ok(opened)
    }

    fn open_one(&self, source: &ModelSource, roots: &ModelRoots) -> Result<NamedEmbedding, String> {
        let key = roots.locate(source).map_err(|error| chain(&error))?;
        let file = Version::of(key.folder).map_err(|error| error.to_string())?;
        let kept = self.lock().get(&file);
        let (embedding, sha256) = match kept {
            Some(kept) => kept,
            None => {
                // First, as it bounds what else is read.
                let embedding = Embedding::open(&file.path).map_err(|error| chain(&error))?;
                let sha256 = sha256_of_file(&file.path).map_err(|error| chain(&error))?;
                self.lock().insert(file.clone(), embedding.clone(), sha256.clone());
                (embedding, sha256)
            }
        };
        if let Some(declared) = key.sha256.filter(|declared| *declared != sha256) {
            return Err(format!("its sha256 is {sha256}, not the declared {declared}; declare that one or mend the file"));
        }
        let names = vec![source.id.clone(), word(&embedding, &file.path)];
        Ok(NamedEmbedding { names, embedding })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        // Entries are added and removed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word by which prompts name an embedding: its file says it, or is named by it.
pub fn word(embedding: &Embedding, path: &Path) -> String {
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    embedding.word().map_or_else(stem, str::to_owned)
}

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

impl Version {
    fn of(path: PathBuf) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(&path)?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("its uri must name a safetensors file"));
        }
        Ok(Self { path, bytes: metadata.len(), modified: metadata.modified()? })
    }
}

#[derive(Debug)]
struct Entry {
    file: Version,
    embedding: Embedding,
    sha256: String,
}

/// Least recently used first.
#[derive(Debug, Default)]
struct Cache(Vec<Entry>);

impl Cache {
    fn get(&mut self, file: &Version) -> Option<(Embedding, String)> {
        let at = self.0.iter().position(|entry| entry.file == *file)?;
        let entry = self.0.remove(at);
        let found = (entry.embedding.clone(), entry.sha256.clone());
        self.0.push(entry);
        Some(found)
    }

    fn insert(&mut self, file: Version, embedding: Embedding, sha256: String) {
        self.0.retain(|entry| entry.file.path != file.path);
        self.0.push(Entry { file, embedding, sha256 });
        let mut held: usize = self.0.iter().map(|entry| entry.embedding.bytes()).sum();
        while held > MAX_CACHED_BYTES && !self.0.is_empty() {
            held -= self.0.remove(0).embedding.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_api::ImageRequest;
    use safetensors::{Dtype, tensor::TensorView};

    fn write(path: &Path, tensor: &str, shape: Vec<usize>) {
        write_filled(path, tensor, shape, 0);
    }

    fn write_filled(path: &Path, tensor: &str, shape: Vec<usize>, byte: u8) {
        let data = vec![byte; shape.iter().product::<usize>() * 4];
        let view = TensorView::new(Dtype::F32, shape, &data).unwrap();
        std::fs::write(path, safetensors::serialize([(tensor, view)], None).unwrap()).unwrap();
    }

    struct Shelf {
        folder: tempfile::TempDir,
        roots: ModelRoots,
        embeddings: Embeddings,
    }

    impl Shelf {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("models")).unwrap();
            let roots = ModelRoots::resolve(&[folder.path().join("models")]).unwrap();
            Self { folder, roots, embeddings: Embeddings::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Asks for `ids` where there are sources of these ids and files.
        fn open_all(
            &self,
            ids: &[&str],
            sources: &[(&str, &str)],
            sha256: Option<&str>,
        ) -> Result<Vec<NamedEmbedding>, EmbeddingSourceError> {
            let source = |(id, file): &(&str, &str)| ModelSource {
                id: (*id).to_owned(),
                uri: format!("file://{}", self.path(file).display()),
                config: None,
                sha256: sha256.map(str::to_owned),
                vae: None,
                adapters: Vec::new(),
            };
            let mut request = ImageRequest::text_to_image("demo", "");
            request.embeddings = ids.iter().map(|id| (*id).to_owned()).collect();
            let dispatch = Dispatch {
                id: uuid::Uuid::nil(),
                model: ModelSource { id: String::new(), uri: String::new(), config: None, sha256: None, vae: None, adapters: Vec::new() },
                request,
                inputs: Vec::new(),
                adapters: sources.iter().map(source).collect(),
                refiner: None,
                contents: Vec::new(),
                outputs: Vec::new(),
                deadline_ms: 0,
                partial_images: 0,
                metadata: Vec::new(),
            };
            self.embeddings.open(&dispatch, &self.roots)
        }

        fn open(&self, file: &str, sha256: Option<&str>) -> Result<Vec<NamedEmbedding>, EmbeddingSourceError> {
            self.open_all(&["good"], &[("good", file)], sha256)
        }
    }

    #[test]
    fn embedding_goes_by_the_apis_name_and_by_its_own() {
        let shelf = Shelf::new();
        write(&shelf.path("models/easy.safetensors"), "emb_params", vec![2, 8]);
        assert_eq!(shelf.open("models/easy.safetensors", None).unwrap()[0].names, ["good", "easy"]);
        write(&shelf.path("models/cat.safetensors"), "<cat>", vec![8]);
        assert_eq!(shelf.open("models/cat.safetensors", None).unwrap()[0].names, ["good", "<cat>"]);
    }

    #[test]
    fn words_that_two_embeddings_share_name_neither() {
        let shelf = Shelf::new();
        for folder in ["models/a", "models/b"] {
            std::fs::create_dir(shelf.path(folder)).unwrap();
            write(&shelf.path(folder).join("style.safetensors"), "emb_params", vec![8]);
        }
        let sources = [("a", "models/a/style.safetensors"), ("b", "models/b/style.safetensors"), ("style", "models/a/style.safetensors")];
        let names = |ids: &[&str]| shelf.open_all(ids, &sources, None).unwrap().into_iter().map(|named| named.names).collect::<Vec<_>>();
        assert_eq!(names(&["a"]), [["a", "style"]]);
        assert_eq!(names(&["a", "b"]), [["a"], ["b"]]);
        assert_eq!(names(&["b", "style"]), [vec!["b"], vec!["style", "style"]]);
    }

    #[test]
    fn changed_file_is_read_again_and_an_unchanged_one_is_not() {
        let shelf = Shelf::new();
        let path = shelf.path("models/a.safetensors");
        write(&path, "emb_params", vec![2, 8]);
        let first = shelf.open("models/a.safetensors", None).unwrap();
        // Other values in a file that looks like the one that was read: it is not looked at again.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        write_filled(&path, "emb_params", vec![2, 8], 1);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(shelf.open("models/a.safetensors", None).unwrap(), first);
        write(&path, "emb_params", vec![3, 8]);
        assert_eq!(shelf.open("models/a.safetensors", None).unwrap()[0].embedding.vectors(), 3);
        assert_eq!(shelf.embeddings.lock().0.len(), 1);
    }

    #[test]
    fn least_recently_used_go_first() {
        let shelf = Shelf::new();
        let path = shelf.path("models/a.safetensors");
        // The largest there may be: 75 vectors.
        write(&path, "emb_params", vec![75, 16_384]);
        let embedding = shelf.open("models/a.safetensors", None).unwrap().remove(0).embedding;
        let fit = MAX_CACHED_BYTES / embedding.bytes();
        let version = |number: usize| Version { path: PathBuf::from(number.to_string()), bytes: 0, modified: SystemTime::UNIX_EPOCH };
        let mut cache = Cache::default();
        for number in 0..=fit {
            cache.insert(version(number), embedding.clone(), String::new());
            assert!(cache.get(&version(0)).is_some(), "it was just used");
        }
        assert_eq!(cache.0.len(), fit);
        assert!(cache.get(&version(1)).is_none());
    }

    #[test]
    fn what_is_no_embedding_or_lies_elsewhere_is_refused_with_its_name() {
        let shelf = Shelf::new();
        write(&shelf.path("outside.safetensors"), "emb_params", vec![8]);
        write(&shelf.path("models/good.safetensors"), "emb_params", vec![8]);
        std::fs::write(shelf.path("models/pickle.pt"), b"\x80\x02}q\x00").unwrap();
        std::os::unix::fs::symlink(shelf.path("outside.safetensors"), shelf.path("models/link")).unwrap();
        for (file, word) in [
            ("outside.safetensors", "outside"),
            ("models/link", "outside"),
            ("models/pickle.pt", "weights_only=True"),
            ("models/nothing", "cannot be opened"),
            ("models", "safetensors file"),
        ] {
            let refused = shelf.open(file, None).unwrap_err().to_string();
            assert!(refused.contains("`good`") && refused.contains(word), "{refused}");
        }
        let refused = shelf.open("models/good.safetensors", Some(&"0".repeat(64))).unwrap_err().to_string();
        assert!(refused.contains("sha256"), "{refused}");
        assert!(matches!(
            shelf.open_all(&["other"], &[("good", "models/good.safetensors")], None),
            Err(EmbeddingSourceError::Missing { .. })
        ));
    }
}
