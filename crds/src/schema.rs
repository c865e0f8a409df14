//! Checks an object against the very schema a cluster gets: local mode has no API server, but must refuse the same.
//!
//! The order is the API server's: nulls are dropped, unknown fields named, defaults filled in, then types, bounds and
//! rules checked. Only the keywords that our schemas use are understood; a test holds the two together.

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    ModelDeployment, RuntimePool, TenantPlan,
    rule::{Rule, Violation},
};

/// Deepest nesting that is looked into; our own schemas are far flatter.
const MAX_DEPTH: usize = 32;

/// The definitions a cluster needs before it accepts our objects, in the order in which they are applied.
pub fn definitions() -> &'static [CustomResourceDefinition] {
    static DEFINITIONS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(|| {
        let mut definitions = vec![ModelDeployment::crd(), RuntimePool::crd(), TenantPlan::crd()];
        for version in definitions.iter_mut().flat_map(|definition| &mut definition.spec.versions) {
            if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                forbid_null(root);
            }
        }
        definitions
    });
    &DEFINITIONS
}

/// The schema of a kind's objects; `None` if the kind is not ours.
pub fn of_kind(kind: &str) -> Option<&'static JSONSchemaProps> {
    definitions()
        .iter()
        .find(|definition| definition.spec.names.kind == kind)?
        .spec
        .versions
        .first()?
        .schema
        .as_ref()?
        .open_api_v3_schema
        .as_ref()
}

/// An optional field is absent, never null: the API server drops nulls where they are not allowed, which keeps `has()`
/// in rules to one meaning.
fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|all| all.values_mut()) {
        forbid_null(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        forbid_null(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        forbid_null(values);
    }
}

/// Everything a cluster would refuse in a typed object; empty if nothing.
pub fn violations<K: CustomResourceExt + Serialize>(object: &K, old: Option<&K>) -> Vec<Violation> {
    let prepared = |object: &K| -> Result<Value, Violation> {
        let mut value = serde_json::to_value(object).map_err(|error| Violation { path: String::new(), message: error.to_string() })?;
        drop_nulls(&mut value);
        Ok(value)
    };
    let Some(schema) = of_kind(&K::api_resource().kind) else {
        return Vec::new();
    };
    match (prepared(object), old.map(prepared).transpose()) {
        (Ok(value), Ok(old)) => check(schema, &value, old.as_ref()),
        (Err(violation), _) | (_, Err(violation)) => vec![violation],
    }
}

/// Removes fields that are null, as the API server does before anything else.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Fills in what is absent and has a default.
pub fn apply_defaults(schema: &JSONSchemaProps, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in schema.properties.iter().flatten() {
                if let Some(default) = &property.default
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.0.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    apply_defaults(property, field);
                }
            }
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for item in items {
                    apply_defaults(schema, item);
                }
            }
        }
        _ => {}
    }
}

/// Fields that the schema does not know: most of them typing mistakes, which a cluster drops with a mere warning.
pub fn unknown_fields(schema: &JSONSchemaProps, value: &Value, path: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    walk_unknown(schema, value, path, 0, &mut found);
    found
}

fn walk_unknown(schema: &JSONSchemaProps, value: &Value, path: &str, depth: usize, found: &mut Vec<Violation>) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Object(fields) => {
            let Some(properties) = &schema.properties else {
                return;
            };
            for (name, field) in fields {
                let path = join(path, name);
                if let Some(property) = properties.get(name) {
                    walk_unknown(property, field, &path, depth + 1, found);
                } else {
                    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                    found.push(Violation { path, message: format!("unknown field; known here: {}", known.join(", ")) });
                }
            }
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    walk_unknown(schema, item, &format!("{path}[{index}]"), depth + 1, found);
                }
            }
        }
        _ => {}
    }
}

/// Types, bounds and rules of a whole object whose nulls are dropped and whose defaults are filled in.
pub fn check(schema: &JSONSchemaProps, value: &Value, old: Option<&Value>) -> Vec<Violation> {
    let mut checker = Checker { found: Vec::new() };
    checker.check(schema, value, old, "", 0);
    checker.found
}

struct Checker {
    found: Vec<Violation>,
}

impl Checker {
    fn check(&mut self, schema: &JSONSchemaProps, value: &Value, old: Option<&Value>, path: &str, depth: usize) {
        if depth > MAX_DEPTH {
            self.report(path, format!("nested deeper than {MAX_DEPTH} levels"));
            return;
        }
        let before = self.found.len();
        self.check_type(schema, value, path);
        if self.found.len() > before {
            return;
        }
        match value {
            Value::String(text) => self.check_text(schema, text, path),
            Value::Number(number) => self.check_number(schema, number.as_f64(), path),
            Value::Array(items) => self.check_items(schema, items, path, depth),
            Value::Object(fields) => self.check_fields(schema, fields, old, path, depth),
            _ => {}
        }
        // As in a cluster, rules are asked only about values of the right shape.
        if self.found.len() == before {
            self.check_rules(schema, value, old, path);
        }
    }

    fn check_type(&mut self, schema: &JSONSchemaProps, value: &Value, path: &str) {
        if schema.x_kubernetes_int_or_string == Some(true) {
            if !value.is_string() && !value.is_i64() && !value.is_u64() {
                self.report(path, "must be a whole number or a string");
            }
            return;
        }
        let fits = match schema.type_.as_deref() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("number") => value.is_number(),
            Some("integer") => {
                value.as_i64().is_some_and(|number| schema.format.as_deref() != Some("int32") || i32::try_from(number).is_ok())
            }
            _ => true,
        };
        if !fits {
            let kind = schema.type_.as_deref().unwrap_or("other");
            self.report(path, format!("must be of type {kind}"));
        }
    }

    fn check_text(&mut self, schema: &JSONSchemaProps, text: &str, path: &str) {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            self.report(path, format!("must have at least {min} characters"));
        }
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            self.report(path, format!("must have at most {max} characters"));
        }
        if let Some(allowed) = &schema.enum_
            && !allowed.iter().any(|allowed| allowed.0.as_str() == Some(text))
        {
            let allowed: Vec<String> = allowed.iter().map(|value| value.0.to_string()).collect();
            self.report(path, format!("must be one of {}", allowed.join(", ")));
        }
    }

    fn check_number(&mut self, schema: &JSONSchemaProps, number: Option<f64>, path: &str) {
        let Some(number) = number.filter(|number| number.is_finite()) else {
            self.report(path, "must be a finite number");
            return;
        };
        if let Some(min) = schema.minimum.filter(|min| number < *min) {
            self.report(path, format!("must be at least {min}"));
        }
        if let Some(max) = schema.maximum.filter(|max| number > *max) {
            self.report(path, format!("must be at most {max}"));
        }
    }

    fn check_items(&mut self, schema: &JSONSchemaProps, items: &[Value], path: &str, depth: usize) {
        self.check_count(schema.min_items, schema.max_items, items.len(), "items", path);
        if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
            for (index, item) in items.iter().enumerate() {
                // Predecessors of list items are not paired: no rule about a change stands inside a list.
                self.check(schema, item, None, &format!("{path}[{index}]"), depth + 1);
            }
        }
        let identity = |item: &Value| -> Value {
            match schema.x_kubernetes_list_map_keys.as_deref() {
                Some(keys) => keys.iter().map(|key| item.get(key).cloned().unwrap_or(Value::Null)).collect(),
                None => item.clone(),
            }
        };
        if matches!(schema.x_kubernetes_list_type.as_deref(), Some("set" | "map")) {
            let identities: Vec<Value> = items.iter().map(identity).collect();
            for (index, this) in identities.iter().enumerate() {
                if identities[..index].contains(this) {
                    self.report(&format!("{path}[{index}]"), "stands in the list twice");
                }
            }
        }
    }

    fn check_fields(&mut self, schema: &JSONSchemaProps, fields: &Map<String, Value>, old: Option<&Value>, path: &str, depth: usize) {
        self.check_count(schema.min_properties, schema.max_properties, fields.len(), "entries", path);
        for name in schema.required.iter().flatten() {
            if !fields.contains_key(name) {
                self.report(&join(path, name), "is required");
            }
        }
        for (name, field) in fields {
            let property = schema.properties.as_ref().and_then(|properties| properties.get(name)).or(match &schema.additional_properties {
                Some(JSONSchemaPropsOrBool::Schema(values)) => Some(&**values),
                _ => None,
            });
            if let Some(property) = property {
                let old = old.and_then(|old| old.get(name));
                self.check(property, field, old, &join(path, name), depth + 1);
            }
        }
    }

    fn check_count(&mut self, min: Option<i64>, max: Option<i64>, count: usize, of: &str, path: &str) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(min) = min.filter(|min| count < *min) {
            self.report(path, format!("must have at least {min} {of}"));
        }
        if let Some(max) = max.filter(|max| count > *max) {
            self.report(path, format!("must have at most {max} {of}"));
        }
    }

    fn check_rules(&mut self, schema: &JSONSchemaProps, value: &Value, old: Option<&Value>, path: &str) {
        for validation in schema.x_kubernetes_validations.iter().flatten() {
            match Rule::find(&validation.rule) {
                Some(rule) if rule.holds(value, old) => {}
                Some(rule) => self.report(path, rule.message),
                None => self.report(path, format!("cannot check the rule {}", validation.rule)),
            }
        }
    }

    fn report(&mut self, path: &str, message: impl Into<String>) {
        self.found.push(Violation { path: path.to_owned(), message: message.into() });
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
