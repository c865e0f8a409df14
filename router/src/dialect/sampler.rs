//! Names of samplers as callers write them, as diffusers' class names and config keys. It knows what each class can be told, not
//! which ones a replica runs: whoever validates says that.

use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// A class and which options of the dialects it has.
struct Class {
    name: &'static str,
    takes_karras: bool,
    takes_algorithm: bool,
}

const fn class(name: &'static str, takes_karras: bool, takes_algorithm: bool) -> Class {
    Class { name, takes_karras, takes_algorithm }
}

/// Every class that the dialects name. `use_karras_sigmas` and `algorithm_type` are keys of some classes' configs in diffusers only.
const CLASSES: [Class; 21] = [
    class("DDIMScheduler", false, false),
    class("EulerDiscreteScheduler", true, false),
    class("EulerAncestralDiscreteScheduler", false, false),
    class("DDPMScheduler", false, false),
    class("PNDMScheduler", false, false),
    class("LMSDiscreteScheduler", true, false),
    class("DPMSolverMultistepScheduler", true, true),
    class("DPMSolverSinglestepScheduler", true, true),
    class("HeunDiscreteScheduler", true, false),
    class("KDPM2DiscreteScheduler", true, false),
    class("KDPM2AncestralDiscreteScheduler", true, false),
    class("UniPCMultistepScheduler", true, false),
    class("DEISMultistepScheduler", true, false),
    class("DDIMInverseScheduler", false, false),
    class("IPNDMScheduler", false, false),
    class("KarrasVeScheduler", false, false),
    class("ScoreSdeVeScheduler", false, false),
    class("LCMScheduler", false, false),
    class("TCDScheduler", false, false),
    class("FlowMatchEulerDiscreteScheduler", true, false),
    class("FlowMatchHeunDiscreteScheduler", false, false),
];

/// A1111's names, folded: (name, class, algorithm).
const A1111_NAMES: [(&str, &str, Option<&str>); 17] = [
    ("ddim", "DDIMScheduler", None),
    ("ddpm", "DDPMScheduler", None),
    ("euler", "EulerDiscreteScheduler", None),
    ("eulera", "EulerAncestralDiscreteScheduler", None),
    ("eulerancestral", "EulerAncestralDiscreteScheduler", None),
    ("heun", "HeunDiscreteScheduler", None),
    ("lms", "LMSDiscreteScheduler", None),
    ("plms", "PNDMScheduler", None),
    ("pndm", "PNDMScheduler", None),
    ("lcm", "LCMScheduler", None),
    ("tcd", "TCDScheduler", None),
    ("unipc", "UniPCMultistepScheduler", None),
    ("dpm2", "KDPM2DiscreteScheduler", None),
    ("dpm2a", "KDPM2AncestralDiscreteScheduler", None),
    ("dpm++2m", "DPMSolverMultistepScheduler", Some("dpmsolver++")),
    ("dpm++2msde", "DPMSolverMultistepScheduler", Some("sde-dpmsolver++")),
    ("dpm++sde", "DPMSolverSinglestepScheduler", None),
];

/// What the caller chose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// diffusers' class name; `None` leaves it to the model.
    pub sampler: Option<String>,
    pub options: Map<String, Value>,
}

/// From the fields `scheduler`, `use_karras_sigmas` and `algorithm_type`. Clients send the last two with every scheduler, so a class that
/// has no such option is not told; without a scheduler they qualify nothing, and the model's own sampler stays as its author set it.
pub fn choose(field: &str, name: Option<&str>, karras: Option<bool>, algorithm: Option<&str>) -> Result<Choice, Refusal> {
    let Some(name) = name else {
        return Ok(Choice::default());
    };
    let folded = fold(name);
    let (folded, karras) = match folded.strip_suffix("karras") {
        Some(rest) if !rest.is_empty() => (rest, Some(true)),
        _ => (folded.as_str(), karras),
    };
    let (class, named_algorithm) = find(folded).ok_or_else(|| unknown(field, name))?;
    let mut options = Map::new();
    if let (true, Some(karras)) = (class.takes_karras, karras) {
        options.insert("use_karras_sigmas".to_owned(), Value::Bool(karras));
    }
    let algorithm = algorithm.filter(|text| !matches!(text.to_ascii_lowercase().as_str(), "no" | "none" | "false" | "null"));
    if let (true, Some(algorithm)) = (class.takes_algorithm, named_algorithm.or(algorithm)) {
        // The vendor's documents spell it with three plus signs.
        options.insert("algorithm_type".to_owned(), Value::String(algorithm.replace("+++", "++")));
    }
    Ok(Choice { sampler: Some(class.name.to_owned()), options })
}

fn find(folded: &str) -> Option<(&'static Class, Option<&'static str>)> {
    let short = folded.strip_suffix("scheduler").unwrap_or(folded);
    if let Some(class) = CLASSES.iter().find(|class| fold(class.name).strip_suffix("scheduler") == Some(short)) {
        return Some((class, None));
    }
    let (_, name, algorithm) = A1111_NAMES.iter().find(|(alias, ..)| *alias == short)?;
    Some((CLASSES.iter().find(|class| class.name == *name)?, *algorithm))
}

fn fold(name: &str) -> String {
    name.chars()
        .filter(|character| character.is_ascii_alphanumeric() || *character == '+')
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

fn unknown(field: &str, name: &str) -> Refusal {
    let shown: String = name.chars().take(60).collect();
    let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
    Refusal::Invalid { field: field.to_owned(), message: format!("{field} {shown:?} is unknown; known are {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(name: &str, karras: Option<bool>, algorithm: Option<&str>) -> (String, Value) {
        let choice = choose("scheduler", Some(name), karras, algorithm).unwrap();
        (choice.sampler.unwrap(), Value::Object(choice.options))
    }

    #[test]
    fn both_worlds_names_lead_to_the_class() {
        for (name, class, options) in [
            ("EulerDiscreteScheduler", "EulerDiscreteScheduler", json!({})),
            ("eulerdiscrete", "EulerDiscreteScheduler", json!({})),
            ("Euler a", "EulerAncestralDiscreteScheduler", json!({})),
            ("DDIM", "DDIMScheduler", json!({})),
            ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", json!({ "use_karras_sigmas": true, "algorithm_type": "dpmsolver++" })),
            ("DPM++ 2M SDE", "DPMSolverMultistepScheduler", json!({ "algorithm_type": "sde-dpmsolver++" })),
            ("DPM2 a", "KDPM2AncestralDiscreteScheduler", json!({})),
            ("KarrasVeScheduler", "KarrasVeScheduler", json!({})),
        ] {
            assert_eq!(chosen(name, None, None), (class.to_owned(), options), "{name}");
        }
    }

    #[test]
    fn options_go_only_to_classes_that_have_them() {
        assert_eq!(chosen("EulerDiscreteScheduler", Some(true), Some("sde-dpmsolver++")).1, json!({ "use_karras_sigmas": true }));
        assert_eq!(chosen("EulerDiscreteScheduler", Some(false), None).1, json!({ "use_karras_sigmas": false }));
        assert_eq!(chosen("DDIMScheduler", Some(true), Some("none")).1, json!({}));
        assert_eq!(chosen("DPMSolverMultistepScheduler", None, Some("dpmsolver+++")).1, json!({ "algorithm_type": "dpmsolver++" }));
        assert_eq!(choose("scheduler", None, Some(true), None), Ok(Choice::default()));
    }

    #[test]
    fn unknown_name_is_refused_with_those_that_are_known() {
        let Err(Refusal::Invalid { field, message }) = choose("scheduler", Some("MagicScheduler"), None, None) else {
            panic!("accepted");
        };
        assert_eq!(field, "scheduler");
        assert!(message.contains("MagicScheduler") && message.contains("DDIMScheduler"), "{message}");
    }
}
