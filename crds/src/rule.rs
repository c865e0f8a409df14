//! What a schema's types and bounds cannot say: each rule once in CEL for a cluster, once in Rust for local mode.
//!
//! A rule's Rust function reads the same JSON value as its expression and means the same. [`crate::schema`] finds
//! rules in the schema by their expression, so a rule that a cluster checks cannot be forgotten here: one without its
//! mirror fails a test, and is reported as a violation rather than passed over.

use std::fmt;

use serde_json::{Value, json};

use crate::{Price, Timespan};

/// One fact that must hold for a value.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// CEL over `self`, and over `oldSelf` if it speaks of a change.
    pub expression: &'static str,
    /// What the API server and local mode say when it does not hold.
    pub message: &'static str,
    /// The same in Rust: the value, and its predecessor if `is_transition`.
    holds: fn(&Value, &Value) -> bool,
}

/// What is wrong with an object, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, such as `spec.serving`; empty for the whole object.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { formatter.write_str(&self.message) } else { write!(formatter, "{}: {}", self.path, self.message) }
    }
}

impl Rule {
    /// The rule with this CEL expression.
    pub fn find(expression: &str) -> Option<&'static Rule> {
        ALL.iter().copied().find(|rule| rule.expression == expression)
    }

    /// Whether the rule compares a value with its predecessor.
    pub fn is_transition(&self) -> bool {
        self.expression.contains("oldSelf")
    }

    /// Whether `value` satisfies the rule. Without a predecessor a transition rule holds, as in a cluster at creation.
    pub fn holds(&self, value: &Value, old: Option<&Value>) -> bool {
        match (self.is_transition(), old) {
            (true, None) => true,
            (true, Some(old)) => (self.holds)(value, old),
            (false, _) => (self.holds)(value, &Value::Null),
        }
    }
}

/// `x-kubernetes-validations` for a schema.
pub fn schema(rules: &[&Rule]) -> Value {
    rules.iter().map(|rule| json!({"rule": rule.expression, "message": rule.message})).collect()
}

/// Every rule of every resource.
pub static ALL: &[&Rule] = &[
    &PRICE,
    &TIMESPAN,
    &MODEL_ID,
    &MODEL_ID_FIXED,
    &SOURCE_URI,
    &SHA256,
    &SAMPLER,
    &VOLUME_NEEDS_DEDICATED,
    &SERVING_ONE_WAY,
    &REPLICA_RANGE,
    &REPLICAS_WITHIN_RANGE,
    &SIZE_RANGE,
    &SIZE_MULTIPLE,
    &DEFAULT_WIDTH,
    &DEFAULT_HEIGHT,
    &DEFAULT_STEPS,
    &BURST,
    &CACHE_CLASS_NEEDS_DISK,
    &BYTES,
];

/// On [`Price`].
pub static PRICE: Rule = Rule {
    expression: "self.matches('^[0-9]{1,7}([.][0-9]{1,6})?$')",
    message: "a price is US dollars as a quoted decimal without sign, such as \"0.002\" or \"47\" (at most 7 digits before the point and 6 after it)",
    holds: |value, _| text(value).parse::<Price>().is_ok(),
};

/// On [`Timespan`].
pub static TIMESPAN: Rule = Rule {
    expression: "self.matches('^([0-9]{1,10}(ms|s|m|h))+$') && duration(self) <= duration('8760h')",
    message: "a span of time is whole numbers with the units h, m, s or ms, such as 60s or 1h30m, and at most 8760h",
    holds: |value, _| text(value).parse::<Timespan>().is_ok(),
};

/// On `spec.modelId` and on every field that names a model.
pub static MODEL_ID: Rule = Rule {
    expression: "self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$')",
    message: "a model id is letters, digits, '.', '_' and '-', with at most one '/' between an owner and a name, such as stabilityai/sdxl-turbo",
    holds: |value, _| {
        let text = text(value);
        let (owner, name) = text.split_once('/').unwrap_or((text, text));
        is_model_id_part(owner) && is_model_id_part(name)
    },
};

/// On a ModelDeployment's `spec`.
pub static MODEL_ID_FIXED: Rule = Rule {
    expression: "has(self.modelId) == has(oldSelf.modelId) && (!has(self.modelId) || self.modelId == oldSelf.modelId)",
    message: "modelId cannot be changed, because callers know the model by it: make a new ModelDeployment instead",
    holds: |value, old| value.get("modelId") == old.get("modelId"),
};

/// On `spec.source.uri`.
pub static SOURCE_URI: Rule = Rule {
    expression: "self.matches('^(s3://|https://|hf://|civitai:|file:///|file://[.]/|pvc://)[!-~]+$')",
    message: "a source is s3://bucket/key, s3://bucket/folder/, https://…, hf://owner/name, civitai:id, pvc://claim/path, file:///absolute/path, or file://./path beside the manifest, in ASCII without spaces",
    holds: |value, _| {
        let text = text(value);
        SOURCE_PREFIXES
            .iter()
            .filter_map(|prefix| text.strip_prefix(prefix))
            .any(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()))
    },
};

/// How a source may begin.
const SOURCE_PREFIXES: [&str; 7] = ["s3://", "https://", "hf://", "civitai:", "file:///", "file://./", "pvc://"];

/// On every sha256 an administrator pins.
pub static SHA256: Rule = Rule {
    expression: "self.matches('^[0-9a-f]{64}$')",
    message: "a sha256 is 64 hexadecimal digits in lower case",
    holds: |value, _| {
        let text = text(value);
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    },
};

/// On `spec.defaults.sampler`.
pub static SAMPLER: Rule = Rule {
    expression: "self.matches('^[A-Z][A-Za-z0-9]*Scheduler$')",
    message: "a sampler is the class name that diffusers gives it, such as EulerDiscreteScheduler",
    holds: |value, _| {
        text(value).strip_suffix("Scheduler").is_some_and(|name| {
            name.starts_with(|first: char| first.is_ascii_uppercase()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    },
};

/// On a ModelDeployment's `spec`.
pub static VOLUME_NEEDS_DEDICATED: Rule = Rule {
    expression: "has(self.serving.dedicated) || !(self.source.uri.startsWith('pvc://') || (has(self.source.config) && self.source.config.startsWith('pvc://')))",
    message: "a pvc:// source needs serving.dedicated: the replicas of a pool do not mount a model's own volume",
    holds: |value, _| {
        let on_volume = |field: &str| text(&value["source"][field]).starts_with("pvc://");
        value["serving"].get("dedicated").is_some() || !(on_volume("uri") || on_volume("config"))
    },
};

/// On `spec.serving`.
pub static SERVING_ONE_WAY: Rule = Rule {
    expression: "has(self.pooled) != has(self.dedicated)",
    message: "give exactly one of pooled and dedicated",
    holds: |value, _| value.get("pooled").is_some() != value.get("dedicated").is_some(),
};

/// On `spec.serving.dedicated` and on a RuntimePool's `spec`.
pub static REPLICA_RANGE: Rule = Rule {
    expression: "self.minReplicas <= self.maxReplicas",
    message: "minReplicas must not be greater than maxReplicas",
    holds: |value, _| number(value, "minReplicas") <= number(value, "maxReplicas"),
};

/// On `spec.serving.dedicated`.
pub static REPLICAS_WITHIN_RANGE: Rule = Rule {
    expression: "!has(self.replicas) || (self.replicas >= self.minReplicas && self.replicas <= self.maxReplicas)",
    message: "replicas must lie between minReplicas and maxReplicas",
    holds: |value, _| {
        value.get("replicas").is_none()
            || (number(value, "minReplicas")..=number(value, "maxReplicas")).contains(&number(value, "replicas"))
    },
};

/// On `spec.limits`.
pub static SIZE_RANGE: Rule = Rule {
    expression: "self.minWidth <= self.maxWidth && self.minHeight <= self.maxHeight",
    message: "minWidth and minHeight must not be greater than maxWidth and maxHeight",
    holds: |value, _| number(value, "minWidth") <= number(value, "maxWidth") && number(value, "minHeight") <= number(value, "maxHeight"),
};

/// On `spec.limits`.
pub static SIZE_MULTIPLE: Rule = Rule {
    expression: "self.minWidth % self.sizeMultipleOf == 0 && self.maxWidth % self.sizeMultipleOf == 0 && self.minHeight % self.sizeMultipleOf == 0 && self.maxHeight % self.sizeMultipleOf == 0",
    message: "the smallest and largest width and height must be multiples of sizeMultipleOf",
    holds: |value, _| {
        ["minWidth", "maxWidth", "minHeight", "maxHeight"]
            .iter()
            .all(|side| is_multiple(number(value, side), number(value, "sizeMultipleOf")))
    },
};

/// On a ModelDeployment's `spec`.
pub static DEFAULT_WIDTH: Rule = Rule {
    expression: "!has(self.defaults.width) || (self.defaults.width >= self.limits.minWidth && self.defaults.width <= self.limits.maxWidth && self.defaults.width % self.limits.sizeMultipleOf == 0)",
    message: "defaults.width must be one that limits allow: between minWidth and maxWidth, a multiple of sizeMultipleOf",
    holds: |value, _| default_side_is_allowed(value, "width", "minWidth", "maxWidth"),
};

/// On a ModelDeployment's `spec`.
pub static DEFAULT_HEIGHT: Rule = Rule {
    expression: "!has(self.defaults.height) || (self.defaults.height >= self.limits.minHeight && self.defaults.height <= self.limits.maxHeight && self.defaults.height % self.limits.sizeMultipleOf == 0)",
    message: "defaults.height must be one that limits allow: between minHeight and maxHeight, a multiple of sizeMultipleOf",
    holds: |value, _| default_side_is_allowed(value, "height", "minHeight", "maxHeight"),
};

/// On a ModelDeployment's `spec`.
pub static DEFAULT_STEPS: Rule = Rule {
    expression: "!has(self.defaults.steps) || self.defaults.steps <= self.limits.maxSteps",
    message: "defaults.steps must not be greater than limits.maxSteps",
    holds: |value, _| {
        value["defaults"].get("steps").is_none() || number(&value["defaults"], "steps") <= number(&value["limits"], "maxSteps")
    },
};

/// On every number of bytes.
pub static BYTES: Rule = Rule {
    expression: "type(self) == int ? self >= 0 : self.matches('^[0-9]{1,20}([.][0-9]{1,20})?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$')",
    message: "a number of bytes is a number, and a unit after it if need be, such as 32Gi or 500M",
    holds: |value, _| match value {
        Value::Number(number) => number.as_u64().is_some(),
        value => is_bytes(text(value)),
    },
};

fn is_bytes(text: &str) -> bool {
    const UNITS: [&str; 12] = ["k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let number = UNITS.iter().find_map(|unit| text.strip_suffix(unit)).unwrap_or(text);
    let is_digits = |part: &str| (1..=20).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction),
        None => is_digits(number),
    }
}

/// On a RuntimePool's `spec.cache`.
pub static CACHE_CLASS_NEEDS_DISK: Rule = Rule {
    expression: "!has(self.storageClass) || has(self.disk)",
    message: "storageClass needs disk, which says how large the volume is",
    holds: |value, _| value.get("storageClass").is_none() || value.get("disk").is_some(),
};

/// On a TenantPlan's `spec`.
pub static BURST: Rule = Rule {
    expression: "self.burst <= self.requestsPerMinute",
    message: "burst must not be greater than requestsPerMinute",
    holds: |value, _| number(value, "burst") <= number(value, "requestsPerMinute"),
};

/// The value as text; what is none satisfies no rule about text.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A whole number among an object's fields. The schema has refused other types before a rule is asked.
fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or_default()
}

fn is_multiple(value: i64, of: i64) -> bool {
    value.checked_rem(of) == Some(0)
}

fn is_model_id_part(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_alphanumeric())
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn default_side_is_allowed(spec: &Value, side: &str, min: &str, max: &str) -> bool {
    let (defaults, limits) = (&spec["defaults"], &spec["limits"]);
    if defaults.get(side).is_none() {
        return true;
    }
    let side = number(defaults, side);
    (number(limits, min)..=number(limits, max)).contains(&side) && is_multiple(side, number(limits, "sizeMultipleOf"))
}
