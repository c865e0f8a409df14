//! How many adapters and embeddings a request may name, and how strongly they may act. Pure; whether they exist is the catalog's business.

use runtime_api::ImageRequest;

use super::invalid;
use crate::refusal::Refusal;

/// As many as a ModelDeployment may declare.
pub const ADAPTERS_LIMIT: usize = 8;
/// Strengths beyond it only burn; negative ones push away.
pub const ADAPTER_SCALE_LIMIT: f64 = 10.0;
pub const EMBEDDINGS_LIMIT: usize = 16;

pub(super) fn check(request: &ImageRequest) -> Result<(), Refusal> {
    if request.adapters.len() > ADAPTERS_LIMIT {
        return Err(invalid("lora_model", format!("lora_model must not name more than {ADAPTERS_LIMIT} LoRAs")));
    }
    if request.embeddings.len() > EMBEDDINGS_LIMIT {
        return Err(invalid("embeddings_model", format!("embeddings_model must not name more than {EMBEDDINGS_LIMIT} embeddings")));
    }
    // Not-a-number is within no range.
    if request.adapters.iter().any(|adapter| !(-ADAPTER_SCALE_LIMIT..=ADAPTER_SCALE_LIMIT).contains(&adapter.scale)) {
        return Err(invalid("lora_strength", format!("lora_strength must be between -{ADAPTER_SCALE_LIMIT} and {ADAPTER_SCALE_LIMIT}")));
    }
    let adapters = request.adapters.iter().map(|adapter| adapter.model.as_str());
    twice(adapters).map_or(Ok(()), |name| Err(invalid("lora_model", format!("lora_model names {name} twice"))))?;
    let embeddings = request.embeddings.iter().map(String::as_str);
    twice(embeddings).map_or(Ok(()), |name| Err(invalid("embeddings_model", format!("embeddings_model names {name} twice"))))
}

fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name) {
            return Some(name.chars().take(128).collect());
        }
        seen.push(name);
    }
    None
}

#[cfg(test)]
mod tests {
    use runtime_api::AdapterUse;

    use super::*;

    fn refused(adapters: &[(&str, f64)], embeddings: &[&str]) -> Option<String> {
        let request = ImageRequest {
            adapters: adapters.iter().map(|(model, scale)| AdapterUse { model: (*model).to_owned(), scale: *scale }).collect(),
            embeddings: embeddings.iter().map(|name| (*name).to_owned()).collect(),
            ..ImageRequest::text_to_image("demo", "a red circle")
        };
        check(&request).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn adapters_are_few_of_one_kind_each_and_within_bounds() {
        assert_eq!(refused(&[("a", -10.0), ("b", 10.0), ("c", 0.0)], &["a"]), None);
        for scale in [10.1, -11.0, f64::NAN, f64::INFINITY] {
            assert_eq!(refused(&[("a", scale)], &[]).as_deref(), Some("lora_strength must be between -10 and 10"), "{scale}");
        }
        let names: Vec<String> = (0..20).map(|index| format!("n{index}")).collect();
        let many: Vec<(&str, f64)> = names.iter().take(9).map(|name| (name.as_str(), 1.0)).collect();
        assert_eq!(refused(&many, &[]).as_deref(), Some("lora_model must not name more than 8 LoRAs"));
        let many: Vec<&str> = names.iter().take(17).map(String::as_str).collect();
        assert_eq!(refused(&[], &many).as_deref(), Some("embeddings_model must not name more than 16 embeddings"));
        assert_eq!(refused(&[("a", 1.0), ("a", 0.5)], &[]).as_deref(), Some("lora_model names a twice"));
        assert_eq!(refused(&[], &["e", "e"]).as_deref(), Some("embeddings_model names e twice"));
    }
}
