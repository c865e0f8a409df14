//! The page that describes every field, from the very schemas that a cluster gets.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

const HEAD: &str = "# Resources

<!-- Made by `make generate` from crds/src: change it there. -->

What an administrator declares, in the API group `emulsion.dev`, version `v1alpha1`. On a cluster `kubectl apply` takes it; on one machine the same YAML lies in
the folder that `emulsion-router local --manifests` names, and what a cluster refuses is refused there in the same words. `kubectl explain` shows
the same descriptions.
";
/// Types of Kubernetes' own, described in its documentation.
const OF_KUBERNETES: [(&str, &str); 3] =
    [("resources", "ResourceRequirements"), ("tolerations", "list of Toleration"), ("conditions", "list of Condition")];
/// Where a definition of ours nests no deeper.
const DEPTH_LIMIT: usize = 8;

/// The whole page.
pub(crate) fn page(definitions: &[CustomResourceDefinition]) -> String {
    let mut page = HEAD.to_owned();
    for definition in definitions {
        describe(&mut page, definition).expect("a string takes everything");
    }
    page
}

fn describe(page: &mut String, definition: &CustomResourceDefinition) -> std::fmt::Result {
    let names = &definition.spec.names;
    let Some(schema) = definition.spec.versions.first().and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref()) else {
        return Ok(());
    };
    let scope = if definition.spec.scope == "Namespaced" { "in a namespace" } else { "for the whole cluster" };
    let short = names.short_names.as_deref().unwrap_or_default().join("`, `");
    writeln!(page, "\n## {}\n\n{}", names.kind, schema.description.as_deref().unwrap_or_default())?;
    writeln!(page, "Declared {scope}; `kubectl get {}`, or for short `{short}`.", names.plural)?;
    for part in ["spec", "status"] {
        let Some(schema) = schema.properties.as_ref().and_then(|parts| parts.get(part)) else { continue };
        let (mut rows, mut rules) = (String::new(), Vec::new());
        collect_rules(schema, part, &mut rules);
        fields(&mut rows, &mut rules, schema, "", 0)?;
        writeln!(page, "\n### {}: {part}\n", names.kind)?;
        if part == "status" {
            writeln!(page, "{}\n", schema.description.as_deref().unwrap_or_default())?;
        }
        writeln!(page, "| field | type | default | |\n|---|---|---|---|\n{}", rows.trim_end())?;
        if !rules.is_empty() {
            writeln!(page, "\nWhat breaks one of these rules is refused with it:\n")?;
            for (path, message) in rules {
                writeln!(page, "- `{path}`: {message}")?;
            }
        }
    }
    Ok(())
}

/// A row for each field below `schema`.
fn fields(rows: &mut String, rules: &mut Vec<(String, String)>, schema: &JSONSchemaProps, prefix: &str, depth: usize) -> std::fmt::Result {
    if depth > DEPTH_LIMIT {
        return Ok(());
    }
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{prefix}{name}");
        let of_kubernetes = OF_KUBERNETES.iter().find(|(field, _)| field == name);
        let kind = of_kubernetes.map_or_else(|| kind(field), |(_, kind)| format!("Kubernetes' {kind}"));
        let default = match &field.default {
            _ if required.contains(name) => "required".to_owned(),
            // Their fields say it.
            Some(default) if !default.0.is_object() => format!("`{}`", default.0.to_string().trim_matches('"')),
            _ => String::new(),
        };
        let description = field.description.as_deref().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        writeln!(rows, "| `{path}` | {kind} | {default} | {description} |")?;
        if of_kubernetes.is_some() {
            continue;
        }
        collect_rules(field, &path, rules);
        fields(rows, rules, field, &format!("{path}."), depth + 1)?;
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
            collect_rules(items, &format!("{path}[]"), rules);
            fields(rows, rules, items, &format!("{path}[]."), depth + 1)?;
        }
    }
    Ok(())
}

fn collect_rules(schema: &JSONSchemaProps, path: &str, rules: &mut Vec<(String, String)>) {
    let messages = schema.x_kubernetes_validations.iter().flatten().filter_map(|validation| validation.message.clone());
    rules.extend(messages.map(|message| (path.to_owned(), message)));
}

/// The type, with what bounds it.
fn kind(schema: &JSONSchemaProps) -> String {
    if let Some(allowed) = &schema.enum_ {
        let values: Vec<String> = allowed.iter().filter_map(|value| value.0.as_str()).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    let items = || match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => kind(items),
        _ => String::new(),
    };
    match schema.type_.as_deref() {
        Some("string") if schema.format.as_deref() == Some("date-time") => "time".to_owned(),
        Some("string") => bounded("text", schema.min_length, schema.max_length, "characters"),
        Some("integer") => bounded("whole number", schema.minimum, schema.maximum, ""),
        Some("number") => bounded("number", schema.minimum, schema.maximum, ""),
        Some("array") => bounded(&format!("list of {}", items()), schema.min_items, schema.max_items, "entries"),
        Some("object") if matches!(schema.additional_properties, Some(JSONSchemaPropsOrBool::Schema(_))) => "map of texts".to_owned(),
        None if schema.x_kubernetes_int_or_string == Some(true) => "quantity".to_owned(),
        other => other.unwrap_or("any").to_owned(),
    }
}

fn bounded<T: PartialEq + std::fmt::Display>(name: &str, least: Option<T>, most: Option<T>, of: &str) -> String {
    let bounds = match (least, most) {
        (Some(least), Some(most)) if least == most => format!(", {most} {of}"),
        (Some(least), Some(most)) => format!(", {least} to {most} {of}"),
        (None, Some(most)) => format!(", at most {most} {of}"),
        (Some(least), None) => format!(", at least {least} {of}"),
        (None, None) => String::new(),
    };
    format!("{name}{}", bounds.trim_end())
}
