//! A model's layers by every name that adapter files give them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::Tensor;

use crate::weights::{Arrangement, Layout, LdmUnetNames, Names};

/// Where a text encoder's layers begin, behind what stands before the names of a second one.
const TEXT: &str = "text_model.";
/// What stands before the names of a second text encoder's layers.
const SECOND: &str = "text_encoder_2.";
/// Prefixes of the whole, and then of a part, in names with dots.
const WHOLE_PREFIXES: [&str; 1] = ["base_model.model."];
const PART_PREFIXES: [&str; 6] =
    ["unet.", "transformer.", "text_encoder.", "model.diffusion_model.", "diffusion_model.", "cond_stage_model.transformer."];
/// Prefixes in names where underscores stand for dots.
const UNET_PREFIX: &str = "lora_unet_";
const TRANSFORMER_PREFIX: &str = "lora_transformer_";
const TEXT_PREFIX: &str = "lora_te_";
/// Of the text encoders where there are two, or of the second where the first is left out; and of CLIP where there is T5 besides.
const FIRST_TEXT_PREFIX: &str = "lora_te1_";
const SECOND_TEXT_PREFIX: &str = "lora_te2_";
const EITHER_PREFIX: &str = "lycoris_";

/// The layers of one model that adapters can act on: linear layers and convolutions of text encoder and denoiser, with their weights.
#[derive(Clone, Debug, Default)]
pub struct LayerTable {
    weights: BTreeMap<Arc<str>, Tensor>,
    aliases: HashMap<String, Arc<str>>,
    /// Layers that the original code has one below the other in one, by every name of that one.
    fused: HashMap<String, Vec<Arc<str>>>,
}

impl LayerTable {
    /// Of layers by diffusers' path within their part; those of a second text encoder with its folder before it. The weights may be of any dtype; where only shapes are known, tensors without size do.
    pub fn new(layers: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        let weights: BTreeMap<Arc<str>, Tensor> = layers.into_iter().map(|(path, weight)| (Arc::from(path), weight)).collect();
        let levels = LdmUnetNames::of(weights.keys().map(AsRef::as_ref));
        let has_second = weights.keys().any(|path| path.starts_with(SECOND));
        let transformer = transformer_names(&weights);
        let mut aliases = HashMap::new();
        for path in weights.keys() {
            let mut add = |name: String| drop(aliases.insert(name, Arc::clone(path)));
            let prefixes: &[&str] = match () {
                () if path.starts_with(SECOND) => &[SECOND_TEXT_PREFIX],
                () if path.starts_with(TEXT) && has_second => &[FIRST_TEXT_PREFIX],
                () if path.starts_with(TEXT) && transformer.is_some() => &[TEXT_PREFIX, FIRST_TEXT_PREFIX],
                () if path.starts_with(TEXT) => &[TEXT_PREFIX],
                () => &[UNET_PREFIX, TRANSFORMER_PREFIX],
            };
            for name in levels.name(path).into_iter().chain([path.to_string()]) {
                let underscored = name.trim_start_matches(SECOND).replace('.', "_");
                prefixes.iter().for_each(|prefix| add(format!("{prefix}{underscored}")));
                add(name);
            }
        }
        let mut fused = HashMap::new();
        for (name, paths) in transformer.map_or_else(BTreeMap::new, |names| originals(&weights, names)) {
            let paths: Vec<_> = paths.into_values().collect();
            for name in [format!("{UNET_PREFIX}{}", name.replace('.', "_")), name] {
                match paths.as_slice() {
                    [path] => drop(aliases.entry(name).or_insert_with(|| Arc::clone(path))),
                    _ => drop(fused.insert(name, paths.clone())),
                }
            }
        }
        Self { weights, aliases, fused }
    }

    /// The layers of which a module's name in the original spelling is the whole, in their order; none if it is none such.
    pub(super) fn find_fused(&self, module: &str) -> &[Arc<str>] {
        let name = match module.strip_prefix(EITHER_PREFIX) {
            Some(rest) => format!("{UNET_PREFIX}{rest}"),
            None => without_first(without_first(module, &WHOLE_PREFIXES), &PART_PREFIXES).to_owned(),
        };
        self.fused.get(&name).map_or(&[], Vec::as_slice)
    }

    /// The layer's path for a module's name in any spelling.
    pub(super) fn find(&self, module: &str) -> Option<&Arc<str>> {
        if let Some(rest) = module.strip_prefix(EITHER_PREFIX) {
            let under = |prefix: &str| self.aliases.get(&format!("{prefix}{rest}"));
            return under(UNET_PREFIX).or_else(|| under(TEXT_PREFIX)).or_else(|| under(FIRST_TEXT_PREFIX));
        }
        let module = without_first(module, &WHOLE_PREFIXES);
        let module = without_first(module, &PART_PREFIXES);
        // diffusers once kept attention's adapters in the attention's processor, under names of its own.
        let mut path = module.replace(".processor.", ".");
        if path.ends_with(".to_out") {
            path.push_str(".0");
        }
        if path.trim_start_matches(SECOND).starts_with(TEXT) {
            for (old, new) in [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "out_proj")] {
                if let Some(attention) = path.strip_suffix(old) {
                    path = format!("{attention}{new}");
                }
            }
        }
        self.aliases.get(&path)
    }

    /// The weight of a layer: [outputs, features] or [outputs, channels, height, width].
    pub(super) fn weight(&self, path: &str) -> Option<&Tensor> {
        self.weights.get(path)
    }
}

/// Which code the original names of the model's transformer are of; `None` for a model without one.
fn transformer_names(weights: &BTreeMap<Arc<str>, Tensor>) -> Option<Names> {
    match () {
        () if weights.contains_key("x_embedder") => Some(Names::Flux),
        () if weights.contains_key("pos_embed.proj") => Some(Names::Mmdit),
        () => None,
    }
}

/// A transformer's layers by the names of the original code, those that share one in its order. Without the few that have their halves the
/// other way round there: what adapts them would have to be turned, too.
fn originals(weights: &BTreeMap<Arc<str>, Tensor>, names: Names) -> BTreeMap<String, BTreeMap<usize, Arc<str>>> {
    const WEIGHT: &str = ".weight";
    let parameters: Vec<String> = weights.keys().map(|path| format!("{path}{WEIGHT}")).collect();
    let paths: Vec<&str> = parameters.iter().map(String::as_str).collect();
    let mut originals: BTreeMap<String, BTreeMap<usize, Arc<str>>> = BTreeMap::new();
    for (path, original) in weights.keys().zip(Layout { prefix: "", names }.originals(&paths)) {
        let Some(original) = original else { continue };
        let place = match original.arrangement {
            Arrangement::Same => 0,
            Arrangement::Rows { first, .. } => first,
            _ => continue,
        };
        let name = original.name.strip_suffix(WEIGHT).unwrap_or(&original.name);
        originals.entry(name.to_owned()).or_default().insert(place, Arc::clone(path));
    }
    originals
}

fn without_first<'a>(name: &'a str, prefixes: &[&str]) -> &'a str {
    prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn layer_is_found_under_every_name() {
        let attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0";
        let paths = [attention, "down_blocks.0.resnets.0.conv1", "text_model.encoder.layers.0.self_attn.out_proj"];
        let layer = |path: &&str| ((*path).to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
        let table = LayerTable::new(paths.iter().map(layer));
        for (module, path) in [
            ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0", attention),
            ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0", attention),
            ("lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0", attention),
            ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", attention),
            ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out", attention),
            ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out", attention),
            ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", attention),
            ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0", attention),
            ("lora_unet_input_blocks_1_0_in_layers_2", paths[1]),
            ("lora_te_text_model_encoder_layers_0_self_attn_out_proj", paths[2]),
            ("text_encoder.text_model.encoder.layers.0.self_attn.out_proj", paths[2]),
            ("text_encoder.text_model.encoder.layers.0.self_attn.to_out", paths[2]),
            ("lycoris_text_model_encoder_layers_0_self_attn_out_proj", paths[2]),
        ] {
            assert_eq!(table.find(module).map(AsRef::as_ref), Some(path), "{module}");
        }
        assert_eq!(table.find_fused("lora_unet_double_blocks_0_img_attn_qkv"), []);
        for module in [
            "lora_te2_text_model_encoder_layers_0_self_attn_out_proj",
            "lora_te1_text_model_encoder_layers_0_self_attn_out_proj",
            "lora_unet_double_blocks_0_img_attn_qkv",
            "",
        ] {
            assert_eq!(table.find(module), None, "{module}");
        }
    }

    #[test]
    fn layers_of_two_text_encoders_are_told_apart() {
        let paths = [
            "text_model.encoder.layers.0.mlp.fc1",
            "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
            "text_encoder_2.text_projection",
        ];
        let layer = |path: &&str| ((*path).to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
        let table = LayerTable::new(paths.iter().map(layer));
        for (module, path) in [
            ("lora_te1_text_model_encoder_layers_0_mlp_fc1", paths[0]),
            ("text_encoder.text_model.encoder.layers.0.mlp.fc1", paths[0]),
            ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", paths[1]),
            ("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj", paths[1]),
            ("text_encoder_2.text_model.encoder.layers.0.self_attn.to_q", paths[1]),
            ("lora_te2_text_projection", paths[2]),
        ] {
            assert_eq!(table.find(module).map(AsRef::as_ref), Some(path), "{module}");
        }
        for module in ["lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"] {
            assert_eq!(table.find(module), None, "{module}");
        }
    }

    #[test]
    fn layer_of_a_transformer_is_found_under_every_name() {
        let paths = |of: &[&str]| {
            LayerTable::new(of.iter().map(|path| ((*path).to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap())))
        };
        let double = ["attn.to_q", "attn.to_k", "attn.to_v", "ff.net.2"].map(|name| format!("transformer_blocks.3.{name}"));
        let [query, key, value, narrow] = double.each_ref().map(String::as_str);
        let flux = paths(&["x_embedder", query, key, value, narrow]);
        for (module, path) in [
            ("transformer.transformer_blocks.3.attn.to_q", query),
            ("base_model.model.transformer_blocks.3.attn.to_q", query),
            ("lora_transformer_transformer_blocks_3_attn_to_q", query),
            ("lora_unet_double_blocks_3_img_mlp_2", narrow),
            ("diffusion_model.double_blocks.3.img_mlp.2", narrow),
        ] {
            assert_eq!(flux.find(module).map(AsRef::as_ref), Some(path), "{module}");
        }
        let fused = |table: &LayerTable, module: &str| table.find_fused(module).iter().map(ToString::to_string).collect::<Vec<_>>();
        for module in [
            "lora_unet_double_blocks_3_img_attn_qkv",
            "diffusion_model.double_blocks.3.img_attn.qkv",
            "lycoris_double_blocks_3_img_attn_qkv",
        ] {
            assert_eq!(fused(&flux, module), [query, key, value], "{module}");
        }
        assert_eq!(flux.find("lora_te1_text_model_encoder_layers_0_mlp_fc1"), None);
        let fc1 = "text_model.encoder.layers.0.mlp.fc1";
        let flux = paths(&["x_embedder", "norm_out.linear", fc1]);
        for module in ["lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te_text_model_encoder_layers_0_mlp_fc1", fc1] {
            assert_eq!(flux.find(module).map(AsRef::as_ref), Some(fc1), "{module}");
        }
        // Its halves are the other way round there.
        assert_eq!(flux.find("lora_unet_final_layer_adaLN_modulation_1"), None);
        let modulations = ["transformer_blocks.0.norm1_context.linear", "transformer_blocks.1.norm1_context.linear"];
        let sd3 = paths(&[&["pos_embed.proj"], &modulations[..]].concat());
        for (block, path) in [("0", Some(modulations[0])), ("1", None)] {
            let module = format!("lora_unet_joint_blocks_{block}_context_block_adaLN_modulation_1");
            assert_eq!(sd3.find(&module).map(AsRef::as_ref), path, "{module}");
        }
        let sd3 = paths(&["pos_embed.proj", query, key, value]);
        assert_eq!(fused(&sd3, "lora_unet_joint_blocks_3_x_block_attn_qkv"), [query, key, value]);
        assert_eq!(sd3.find("lora_unet_x_embedder_proj").map(AsRef::as_ref), Some("pos_embed.proj"));
    }
}
