//! What diffusers notes in a LoRA's file about its training. Its names have no `alpha` tensors: where alpha is not the rank, it stands here
//! alone.

use serde_json::{Map, Value};

use crate::weights::TensorIndex;

/// Under which key of the file's metadata it is, as JSON.
const KEY: &str = "lora_adapter_metadata";

/// peft's configurations, by keys such as `unet.lora_alpha`.
#[derive(Clone, Debug, Default)]
pub(super) struct TrainingRecord(Map<String, Value>);

impl TrainingRecord {
    /// Of a file; empty where it has none, or none that is an object.
    pub(super) fn of(index: &TensorIndex) -> Self {
        let text = index.metadata(KEY).unwrap_or_default();
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    /// alpha ÷ rank of a module, as its part's configuration says; `None` where that says nothing usable.
    pub(super) fn factor(&self, module: &str, rank: usize) -> Option<f64> {
        let (part, layer) = module.split_once('.')?;
        let setting = |name: &str| self.0.get(&format!("{part}.{name}"));
        let of_layer = setting("alpha_pattern").and_then(|pattern| pattern.get(layer));
        let alpha = of_layer.or_else(|| setting("lora_alpha"))?.as_f64().filter(|alpha| alpha.is_finite())?;
        let is_rank_stabilised = setting("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Some(alpha / if is_rank_stabilised { (rank as f64).sqrt() } else { rank as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_the_layers_own_or_its_parts() {
        let text = r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"a.to_q": 2}, "text_encoder.lora_alpha": 3.0, "text_encoder.use_rslora": true}"#;
        let record = TrainingRecord(serde_json::from_str(text).unwrap());
        assert_eq!(record.factor("unet.a.to_k", 4), Some(2.0));
        assert_eq!(record.factor("unet.a.to_q", 4), Some(0.5));
        assert_eq!(record.factor("text_encoder.x", 9), Some(1.0));
        assert_eq!(record.factor("lora_unet_a_to_q", 4), None);
        assert_eq!(TrainingRecord::default().factor("unet.a.to_q", 4), None);
    }
}
