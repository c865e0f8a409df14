//! Where everything is that a request is made with: its model, its adapters and its embeddings. Pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use runtime_api::{AdapterSource, CONTENT_SCHEME, ImageRequest, ModelSource, VaeSource};

use crate::catalog::{Model, Snapshot, WeightFiles, Weights, file_uri};

/// What a replica reads for one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sources {
    pub(super) model: ModelSource,
    /// Of the model that goes on where the first leaves off.
    pub(super) refiner: Option<ModelSource>,
    /// In the request's order, embeddings after adapters.
    pub(super) adapters: Vec<ModelSource>,
    /// Those of them that are on the replica's disk.
    pub(super) paths: Vec<PathBuf>,
    /// The digests of those that are in the content store, each once.
    pub(super) contents: BTreeSet<String>,
}

/// Why a request that was accepted cannot be made any more is told to its caller.
pub(super) fn resolve(catalog: &Snapshot, model: &Model, request: &ImageRequest) -> Result<Sources, String> {
    let mut paths = Vec::new();
    let mut contents = BTreeSet::new();
    let mut note = |weights: &Weights| {
        paths.extend(weights.paths().cloned());
        if let Weights::Content { digest } = weights {
            contents.insert(digest.clone());
        }
    };
    let own = whole(catalog, model, &mut note)?;
    let declared = |name: &String| catalog.models.get(name).ok_or_else(|| format!("the model {name} is no longer declared"));
    let refiner = request.refiner.as_ref().map(|refiner| whole(catalog, declared(&refiner.model)?, &mut note)).transpose()?;
    let mut adapters = Vec::new();
    for name in request.adapters.iter().map(|adapter| &adapter.model).chain(&request.embeddings) {
        let adapter = declared(name)?;
        let weights = weights(adapter)?;
        adapters.push(source(adapter, weights));
        note(weights);
    }
    Ok(Sources { model: own, refiner, adapters, paths, contents })
}

/// A model with all that is declared to be part of it; `note` sees all weights.
fn whole(catalog: &Snapshot, model: &Model, note: &mut dyn FnMut(&Weights)) -> Result<ModelSource, String> {
    let own = weights(model)?;
    note(own);
    let mut whole = source(model, own);
    if let Some(vae) = catalog.declared_vae(model)? {
        let weights = weights(vae)?;
        let ModelSource { id, uri, sha256, .. } = source(vae, weights);
        whole.vae = Some(VaeSource { id, uri, sha256 });
        note(weights);
    }
    for (adapter, scale) in catalog.declared_adapters(model)? {
        let weights = weights(adapter)?;
        let ModelSource { id, uri, sha256, .. } = source(adapter, weights);
        whole.adapters.push(AdapterSource { id, uri, sha256, scale });
        note(weights);
    }
    Ok(whole)
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
    use runtime_api::{AdapterUse, RefinerUse};

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
    fn refiner_comes_with_what_is_declared_for_it() {
        let adapters = vec![Adapter { model: "ink".to_owned(), scale: 0.5 }];
        let lost = Model { weights: Err("gone".to_owned()), ..model("lost") };
        let catalog = snapshot([model("demo"), Model { adapters, ..model("fine") }, lora("ink"), lost]);
        let resolve = |name: &str| {
            let refiner = Some(RefinerUse { model: name.to_owned(), start: 0.8 });
            resolve(&catalog, &catalog.models["demo"], &ImageRequest { refiner, ..ImageRequest::text_to_image("demo", "a red circle") })
        };
        let sources = resolve("fine").unwrap();
        let refiner = sources.refiner.unwrap();
        assert_eq!((refiner.id.as_str(), refiner.uri.as_str(), refiner.adapters.len()), ("fine", "file:///models/fine", 1));
        assert_eq!((sources.model.id.as_str(), sources.model.adapters.len(), sources.paths.len()), ("demo", 0, 3));
        assert_eq!(resolve("none").unwrap_err(), "the model none is no longer declared");
        assert_eq!(resolve("lost").unwrap_err(), "the model lost cannot be served: gone");
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
