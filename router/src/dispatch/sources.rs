//! Where everything is that a request is made with: its model, its adapters and its embeddings. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use runtime_api::{AdapterSource, CONTENT_SCHEME, ImageRequest, ModelSource, VaeSource};

use crate::catalog::{Model, Snapshot, WeightFiles, Weights, file_uri};

/// What a replica reads for one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sources {
    pub(super) model: ModelSource,
    /// In the request's order, embeddings after adapters.
    pub(super) adapters: Vec<ModelSource>,
    /// Those of them that are on the replica's disk.
    pub(super) paths: Vec<PathBuf>,
    /// The digests of those that are in the content store, each once.
    pub(super) contents: BTreeSet<String>,
}

/// Why a request that was accepted cannot be made any more is told to its caller.
pub(super) fn resolve(catalog: &Snapshot, model: &Model, request: &ImageRequest) -> Result<Sources, String> {
    let weights = weights(model)?;
    let mut sources = Sources { model: source(model, weights), adapters: Vec::new(), paths: Vec::new(), contents: BTreeSet::new() };
    sources.note(weights);
    if let Some(vae) = catalog.declared_vae(model)? {
        let weights = self::weights(vae)?;
        let ModelSource { id, uri, sha256, .. } = source(vae, weights);
        sources.model.vae = Some(VaeSource { id, uri, sha256 });
        sources.note(weights);
    }
    for (adapter, scale) in catalog.declared_adapters(model)? {
        let weights = self::weights(adapter)?;
        let ModelSource { id, uri, sha256, .. } = source(adapter, weights);
        sources.model.adapters.push(AdapterSource { id, uri, sha256, scale });
        sources.note(weights);
    }
    for name in request.adapters.iter().map(|adapter| &adapter.model).chain(&request.embeddings) {
        let adapter = catalog.models.get(name).ok_or_else(|| format!("the model {name} is no longer declared"))?;
        let weights = self::weights(adapter)?;
        sources.adapters.push(source(adapter, weights));
        sources.note(weights);
    }
    Ok(sources)
}

impl Sources {
    fn note(&mut self, weights: &Weights) {
        self.paths.extend(weights.paths().cloned());
        if let Weights::Content { digest } = weights {
            self.contents.insert(digest.clone());
        }
    }
}

fn weights(model: &Model) -> Result<&Weights, String> {
    model.weights.as_ref().map_err(|reason| format!("the model {} cannot be served: {reason}", model.model_id))
}

fn source(model: &Model, weights: &Weights) -> ModelSource {
    let (uri, config, sha256) = match weights {
        Weights::Files(WeightFiles { uri, config, sha256, .. }) => (uri.clone(), config.as_deref().map(file_uri), sha256.clone()),
        // What is behind a digest was checked against what was declared when it came in.
        Weights::Content { digest } => (format!("{CONTENT_SCHEME}{digest}"), None, None),
    };
    ModelSource { id: model.model_id.clone(), uri, config, sha256, vae: None, adapters: Vec::new() }
}

#[cfg(test)]
mod tests {
    use crds::model_deployment::{Adapter, Family, ModelKind};
    use runtime_api::AdapterUse;

    use super::*;
    use crate::catalog::tests::{lora, model, snapshot};

    #[test]
    fn adapters_and_embeddings_come_with_the_model_as_they_are_declared_now() {
        let catalog = snapshot([model("demo"), lora("ink"), lora("word"), Model { weights: Err("gone".to_owned()), ..lora("lost") }]);
        let request = |adapter: &str, embedding: &str| ImageRequest {
            adapters: vec![AdapterUse { model: adapter.to_owned(), scale: 0.5 }],
            embeddings: vec![embedding.to_owned()],
            ..ImageRequest::text_to_image("demo", "a red circle")
        };
        let resolve = |request: &ImageRequest| resolve(&catalog, &catalog.models["demo"], request);
        let sources = resolve(&request("ink", "word")).unwrap();
        let uris: Vec<&str> = sources.adapters.iter().map(|adapter| adapter.uri.as_str()).collect();
        assert_eq!(uris, ["file:///adapters/ink.safetensors", "file:///adapters/word.safetensors"]);
        assert_eq!((sources.model.uri.as_str(), sources.paths.len()), ("file:///models/demo", 3));
        assert!(sources.model.adapters.is_empty());
        assert_eq!(resolve(&request("oil", "word")).unwrap_err(), "the model oil is no longer declared");
        assert_eq!(resolve(&request("ink", "lost")).unwrap_err(), "the model lost cannot be served: gone");
    }

    #[test]
    fn another_autoencoder_is_part_of_the_model_that_declares_it() {
        let vae = |id: &str| Model { kind: ModelKind::Vae, ..lora(id) };
        let lost = Model { weights: Err("gone".to_owned()), ..vae("lost") };
        let other = Model { family: Some(Family::Sdxl), ..vae("other") };
        let resolve = |name: &str| {
            let declaring = Model { vae: Some(name.to_owned()), ..model("demo") };
            let catalog = snapshot([declaring, vae("sharp"), lora("ink"), lost.clone(), other.clone()]);
            resolve(&catalog, &catalog.models["demo"], &ImageRequest::text_to_image("demo", "a red circle"))
        };
        let sources = resolve("sharp").unwrap();
        let uri = "file:///adapters/sharp.safetensors".to_owned();
        assert_eq!(sources.model.vae, Some(VaeSource { id: "sharp".to_owned(), uri, sha256: None }));
        assert_eq!(sources.paths.len(), 2);
        for (name, reason) in
            [("lost", "gone"), ("ink", "is a LoRA, not a VAE"), ("none", "not declared"), ("other", "is for sdxl, and the model is sd15")]
        {
            assert!(resolve(name).is_err_and(|text| text.contains(reason)), "{name}");
        }
    }

    #[test]
    fn what_was_imported_is_named_by_its_digest() {
        let imported = |model: Model, digest: &str| Model { weights: Ok(Weights::Content { digest: digest.repeat(64) }), ..model };
        let catalog = snapshot([imported(model("demo"), "a"), imported(lora("ink"), "b"), lora("oil")]);
        let mut request = ImageRequest::text_to_image("demo", "a red circle");
        request.adapters = ["ink", "oil"].map(|name| AdapterUse { model: name.to_owned(), scale: 1.0 }).into();
        let sources = resolve(&catalog, &catalog.models["demo"], &request).unwrap();
        assert_eq!(sources.model.uri, format!("content:{}", "a".repeat(64)));
        assert_eq!(sources.contents.into_iter().collect::<Vec<_>>(), ["a".repeat(64), "b".repeat(64)]);
        assert_eq!(sources.paths, [PathBuf::from("/adapters/oil.safetensors")]);
    }

    #[test]
    fn what_a_model_declares_is_part_of_it() {
        let declaring = |name: &str| Model { adapters: vec![Adapter { model: name.to_owned(), scale: 0.5 }], ..model("demo") };
        let plain = ImageRequest::text_to_image("demo", "a red circle");
        let resolve = |name: &str| {
            let catalog = snapshot([declaring(name), lora("ink"), Model { weights: Err("gone".to_owned()), ..lora("lost") }]);
            resolve(&catalog, &catalog.models["demo"], &plain)
        };
        let sources = resolve("ink").unwrap();
        let uri = "file:///adapters/ink.safetensors".to_owned();
        assert_eq!(sources.model.adapters, [AdapterSource { id: "ink".to_owned(), uri, sha256: None, scale: 0.5 }]);
        assert_eq!((sources.adapters.len(), sources.paths.len()), (0, 2));
        assert_eq!(resolve("lost").unwrap_err(), "the model lost cannot be served: gone");
    }
}
