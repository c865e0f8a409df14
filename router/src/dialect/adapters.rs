//! LoRAs as callers name them: in lists of names and strengths, and as tags in a prompt, which is where AUTOMATIC1111 has them. Pure.

use runtime_api::AdapterUse;

use crate::refusal::Refusal;

/// Each name with its strength, in order. Where there are fewer strengths than names the last one counts for the rest, so that one strength
/// is everybody's; without any, all are 1. Strengths without names mean nothing: clients send their default always.
pub fn uses(names: Vec<String>, strengths: &[f64]) -> Result<Vec<AdapterUse>, Refusal> {
    if !names.is_empty() && strengths.len() > names.len() {
        let message = format!("lora_strength has {} values for the {} names of lora_model", strengths.len(), names.len());
        return Err(invalid("lora_strength", message));
    }
    let last = strengths.last().copied().unwrap_or(1.0);
    let strength = |index: usize| strengths.get(index).copied().unwrap_or(last);
    Ok(names.into_iter().enumerate().map(|(index, model)| AdapterUse { model, scale: strength(index) }).collect())
}

/// The prompt without its tags `<lora:NAME>` and `<lora:NAME:STRENGTH>`, and what they ask for. Other angle brackets stay.
pub fn take_tags(prompt: &str) -> Result<(String, Vec<AdapterUse>), Refusal> {
    const OPENING: &str = "<lora:";
    let (mut text, mut uses) = (String::with_capacity(prompt.len()), Vec::new());
    let mut rest = prompt;
    while let Some(start) = rest.find(OPENING) {
        let inside = &rest[start + OPENING.len()..];
        let Some(length) = inside.find('>') else { break };
        uses.push(tag(&inside[..length])?);
        text.push_str(&rest[..start]);
        rest = &inside[length + 1..];
    }
    if uses.is_empty() {
        return Ok((prompt.to_owned(), uses));
    }
    text.push_str(rest);
    Ok((text.trim().to_owned(), uses))
}

fn tag(inside: &str) -> Result<AdapterUse, Refusal> {
    let mut parts = inside.split(':').map(str::trim);
    let (name, strength, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if more.is_some() {
        return Err(Refusal::NotSupported {
            feature: "a LoRA's own strength for the text encoder (<lora:NAME:STRENGTH> is supported)".to_owned(),
        });
    }
    let scale = strength.map_or(Ok(1.0), str::parse);
    match scale {
        Ok(scale) if !name.is_empty() && f64::is_finite(scale) => Ok(AdapterUse { model: name.to_owned(), scale }),
        _ => Err(invalid("prompt", "prompt has a tag that is no <lora:NAME:STRENGTH>, such as <lora:my-style:0.8>".to_owned())),
    }
}

fn invalid(field: &str, message: String) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(uses: Vec<AdapterUse>) -> Vec<(String, f64)> {
        uses.into_iter().map(|adapter| (adapter.model, adapter.scale)).collect()
    }

    fn named(names: &[&str], strengths: &[f64]) -> Result<Vec<(String, f64)>, Refusal> {
        uses(names.iter().map(|name| (*name).to_owned()).collect(), strengths).map(pairs)
    }

    #[test]
    fn the_last_strength_counts_for_the_rest() {
        let expected = |pairs: &[(&str, f64)]| Ok(pairs.iter().map(|(name, scale)| ((*name).to_owned(), *scale)).collect());
        assert_eq!(named(&["a", "b"], &[0.45, 0.55]), expected(&[("a", 0.45), ("b", 0.55)]));
        assert_eq!(named(&["a", "b", "c"], &[0.4, 0.6]), expected(&[("a", 0.4), ("b", 0.6), ("c", 0.6)]));
        assert_eq!(named(&["a", "b"], &[0.5]), expected(&[("a", 0.5), ("b", 0.5)]));
        assert_eq!(named(&["a", "b"], &[]), expected(&[("a", 1.0), ("b", 1.0)]));
        assert_eq!(named(&[], &[1.0, 1.0]), expected(&[]));
        assert!(named(&["a"], &[0.4, 0.6]).is_err());
    }

    #[test]
    fn tags_become_adapters_and_leave_the_text() {
        for (prompt, text, expected) in [
            ("a cat", "a cat", vec![]),
            (" a cat ", " a cat ", vec![]),
            ("a cat <lora:ink:0.8>", "a cat", vec![("ink", 0.8)]),
            ("<lora:ink>a <lora: dots : -1.5 > cat", "a  cat", vec![("ink", 1.0), ("dots", -1.5)]),
            ("a <b> < lora:x> <lora", "a <b> < lora:x> <lora", vec![]),
            ("a <lora:ink", "a <lora:ink", vec![]),
            ("é<lora:ü:1>é", "éé", vec![("ü", 1.0)]),
        ] {
            let (found, uses) = take_tags(prompt).unwrap();
            let expected: Vec<(String, f64)> = expected.into_iter().map(|(name, scale)| (name.to_owned(), scale)).collect();
            assert_eq!((found.as_str(), pairs(uses)), (text, expected), "{prompt}");
        }
        for prompt in ["<lora:>", "<lora: :1>", "<lora:a:strong>", "<lora:a:>", "<lora:a:NaN>", "<lora:a:1:1>"] {
            assert!(take_tags(prompt).is_err(), "{prompt}");
        }
    }
}
