//! The OpenAPI document, made of the table that routes are made of and of the types that calls are parsed into, so that it cannot
//! say anything else than what is served.

use axum::http::Method;
use runtime_api::{OutputFormat, Task};
use utoipa::openapi::path::{HttpMethod, Operation as PathOperation, OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ArrayBuilder, ComponentsBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::dialect::extension::ExtensionFields;
use crate::dialect::{modelslab, not_supported, openai};
use crate::edge::endpoints::{Endpoint, Operation, endpoints};

const SECURITY: &str = "bearer";
const JSON: &str = "application/json";

/// The whole document.
pub fn document() -> OpenApi {
    let mut paths = Paths::new();
    for endpoint in endpoints() {
        for method in endpoint.methods {
            paths.add_path_operation(&endpoint.path, vec![http_method(method)], operation(&endpoint, method));
        }
    }
    let info = InfoBuilder::new().title("Emulsion").version(env!("CARGO_PKG_VERSION")).description(Some(description()));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components())).build()
}

fn description() -> String {
    let mut text =
        "Stable Diffusion behind the APIs that clients already speak. Numbers and switches may be sent as texts, null and \"\" count \
as absent, unknown fields are ignored. The key is taken from the body field `key`, `Authorization: Bearer`, the headers `key` and \
`X-API-Key`, or the query parameter `key`.\n\nFields that are understood and ignored:\n"
            .to_owned();
    for (field, reason) in not_supported::IGNORED_FIELDS {
        text.push_str(&format!("- `{field}`: {reason}\n"));
    }
    text
}

fn components() -> utoipa::openapi::Components {
    let mut schemas = Vec::new();
    collect::<ExtensionFields>(&mut schemas);
    collect::<modelslab::TextToImageFields>(&mut schemas);
    collect::<modelslab::PictureFields>(&mut schemas);
    collect::<modelslab::FetchFields>(&mut schemas);
    collect::<modelslab::Success>(&mut schemas);
    collect::<modelslab::Processing>(&mut schemas);
    collect::<modelslab::Failed>(&mut schemas);
    collect::<modelslab::ErrorBody>(&mut schemas);
    collect::<modelslab::LegacyModel>(&mut schemas);
    collect::<openai::ImageCall>(&mut schemas);
    collect::<openai::EditFields>(&mut schemas);
    collect::<openai::ImagesAnswer>(&mut schemas);
    collect::<openai::StreamEvent>(&mut schemas);
    collect::<openai::ModelList>(&mut schemas);
    collect::<openai::ModelEntry>(&mut schemas);
    collect::<openai::ErrorBody>(&mut schemas);
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(SECURITY, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .build()
}

fn collect<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn http_method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        _ => HttpMethod::Get,
    }
}

fn operation(endpoint: &Endpoint, method: &Method) -> PathOperation {
    let modelslab_error = || json(reference::<modelslab::ErrorBody>());
    let openai_error = || json(reference::<openai::ErrorBody>());
    let operation = OperationBuilder::new().tag(tag(endpoint.operation)).summary(Some(summary(endpoint.operation, method)));
    let operation = match endpoint.operation {
        Operation::Generate(task, _) => secured(operation)
            .request_body(Some(task_body(task)))
            .response("200", response("The images, or where to fetch them.", json(generation_answers(false))))
            .response("default", response("Why not.", modelslab_error())),
        Operation::FetchByBody(_) => secured(operation)
            .request_body(Some(body::<modelslab::FetchFields>()))
            .response("200", response("How the generation stands.", json(generation_answers(true))))
            .response("default", response("Why not.", modelslab_error())),
        Operation::FetchByPath(_) => secured(operation)
            .parameter(path_parameter("id", "The `id` of an earlier answer."))
            .response("200", response("How the generation stands.", json(generation_answers(true))))
            .response("default", response("Why not.", modelslab_error())),
        Operation::ListLegacyModels => {
            let list = ArrayBuilder::new().items(reference::<modelslab::LegacyModel>()).build();
            let list = json(RefOr::T(Schema::Array(list)));
            secured(operation).response("200", response("The models.", list)).response("default", response("Why not.", modelslab_error()))
        }
        Operation::GenerateImages => secured(operation)
            .request_body(Some(generation_body::<openai::ImageCall>()))
            .response("200", images_response())
            .response("default", response("Why not.", openai_error())),
        Operation::EditImages => secured(operation)
            .request_body(Some(picture_body::<openai::ImageCall, openai::EditFields>()))
            .response("200", images_response())
            .response("default", response("Why not.", openai_error())),
        Operation::ListModels => secured(operation)
            .response("200", response("The models.", json(reference::<openai::ModelList>())))
            .response("default", response("Why not.", openai_error())),
        Operation::FindModel => secured(operation)
            .parameter(path_parameter("model", "The model's id."))
            .response("200", response("The model.", json(reference::<openai::ModelEntry>())))
            .response("default", response("Why not.", openai_error())),
        Operation::Ready => operation.response("200", plain("Calls can be served.")).response("503", plain("Not yet.")),
        Operation::Index | Operation::Health | Operation::Metrics => operation.response("200", plain("Text.")),
        Operation::OpenApi => operation.response("200", response("This document.", json(any_object()))),
        Operation::Output => output(operation, method),
        Operation::Input => operation
            .parameter(path_parameter("sha256", "Of the picture, in hex."))
            .response("200", ResponseBuilder::new().description("The picture's bytes."))
            .response("403", plain("The URL is not signed for this, or has expired.")),
    };
    operation.build()
}

fn output(operation: OperationBuilder, method: &Method) -> OperationBuilder {
    let operation = operation.parameter(path_parameter("file_name", "As an answer names it."));
    if *method == Method::PUT {
        return operation
            .response("201", ResponseBuilder::new().description("Stored."))
            .response("400", plain("It is no whole file of the format that its name says."))
            .response("403", plain("The URL is not signed for this, or has expired."))
            .response("412", plain("It exists already: each is written once."));
    }
    let image = OutputFormat::ALL.into_iter().fold(ResponseBuilder::new().description("The image."), |response, format| {
        let file = ObjectBuilder::new().schema_type(Type::String).content_media_type(format.media_type()).build();
        response.content(format.media_type(), Content::new(Some(RefOr::T(Schema::Object(file)))))
    });
    let elsewhere = ResponseBuilder::new().description("The image lies in a bucket: `Location` is good for reading it now.");
    operation.response("200", image).response("307", elsewhere).response("404", plain("No such image, or not yet."))
}

fn tag(operation: Operation) -> &'static str {
    match operation {
        Operation::Generate(..) | Operation::FetchByBody(_) | Operation::FetchByPath(_) | Operation::ListLegacyModels => "ModelsLab",
        Operation::GenerateImages | Operation::EditImages | Operation::ListModels | Operation::FindModel => "OpenAI",
        Operation::Index | Operation::Health | Operation::Ready | Operation::Metrics | Operation::OpenApi => "House",
        Operation::Output => "Outputs",
        Operation::Input => "Inputs",
    }
}

fn summary(operation: Operation, method: &Method) -> &'static str {
    match operation {
        Operation::Generate(Task::ImageToImage, _) => "Change a picture as a text says",
        Operation::Generate(Task::Inpaint, _) => "Draw part of a picture anew",
        Operation::Generate(Task::Outpaint, _) => "Draw around a picture",
        Operation::Generate(..) => "Make images of a text",
        Operation::FetchByBody(_) | Operation::FetchByPath(_) => "Fetch the images of an earlier call; waits for them for a while",
        Operation::ListLegacyModels | Operation::ListModels => "List the models",
        Operation::GenerateImages => "Make images of a text, whole or as a stream of previews",
        Operation::EditImages => "Change a picture, or part of it, whole or as a stream of previews",
        Operation::FindModel => "Tell of one model",
        Operation::Index => "What to call",
        Operation::Health => "Whether the process answers",
        Operation::Ready => "Whether calls can be served; no replica needs to run for that",
        Operation::Metrics => "Metrics in Prometheus' text format",
        Operation::OpenApi => "This document",
        Operation::Output if *method == Method::PUT => "Store an image: for replicas, with a signed URL",
        Operation::Output => "An image",
        Operation::Input => "A picture of a call: for replicas, with a signed URL",
    }
}

fn secured(operation: OperationBuilder) -> OperationBuilder {
    // The empty one stands for the other places a key may be in.
    operation.security(SecurityRequirement::new(SECURITY, Vec::<String>::new())).security(SecurityRequirement::default())
}

fn reference<T: ToSchema>() -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(T::name()))
}

fn generation_answers(with_failure: bool) -> RefOr<Schema> {
    let answers = OneOfBuilder::new().item(reference::<modelslab::Success>()).item(reference::<modelslab::Processing>());
    let answers = if with_failure { answers.item(reference::<modelslab::Failed>()) } else { answers };
    RefOr::T(Schema::OneOf(answers.build()))
}

fn any_object() -> RefOr<Schema> {
    RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::Object).build()))
}

fn json(schema: RefOr<Schema>) -> Content {
    Content::new(Some(schema))
}

fn response(description: &str, content: Content) -> utoipa::openapi::Response {
    ResponseBuilder::new().description(description).content(JSON, content).build()
}

fn images_response() -> utoipa::openapi::Response {
    ResponseBuilder::new()
        .description("The images; with `stream`, events of this type under their `type` as name, and `error` where it failed.")
        .content(JSON, json(reference::<openai::ImagesAnswer>()))
        .content("text/event-stream", json(reference::<openai::StreamEvent>()))
        .build()
}

fn plain(description: &str) -> utoipa::openapi::Response {
    ResponseBuilder::new().description(description).content("text/plain", Content::new(Some(String::schema()))).build()
}

fn body<T: ToSchema>() -> utoipa::openapi::request_body::RequestBody {
    RequestBodyBuilder::new()
        .content(JSON, json(reference::<T>()))
        .content("application/x-www-form-urlencoded", json(reference::<T>()))
        .build()
}

/// A body with the fields of `T` and those of every dialect.
fn generation_body<T: ToSchema>() -> utoipa::openapi::request_body::RequestBody {
    let both = || RefOr::T(Schema::AllOf(AllOfBuilder::new().item(reference::<T>()).item(reference::<ExtensionFields>()).build()));
    RequestBodyBuilder::new().content(JSON, json(both())).content("application/x-www-form-urlencoded", json(both())).build()
}

fn task_body(task: Task) -> utoipa::openapi::request_body::RequestBody {
    match task {
        Task::TextToImage => generation_body::<modelslab::TextToImageFields>(),
        _ => picture_body::<modelslab::TextToImageFields, modelslab::PictureFields>(),
    }
}

/// A body that holds pictures beside the fields of `T` and of every dialect: those of `P`.
fn picture_body<T: ToSchema, P: ToSchema>() -> utoipa::openapi::request_body::RequestBody {
    let all = || {
        let items = AllOfBuilder::new().item(reference::<T>()).item(reference::<ExtensionFields>()).item(reference::<P>());
        RefOr::T(Schema::AllOf(items.build()))
    };
    RequestBodyBuilder::new().content(JSON, json(all())).content("multipart/form-data", json(all())).build()
}

fn path_parameter(name: &str, description: &str) -> utoipa::openapi::path::Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(String::schema()))
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reference_in_the_document_leads_to_a_schema() {
        let document = serde_json::to_value(document()).unwrap();
        let known: BTreeSet<String> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        let text = document.to_string();
        let referenced: BTreeSet<String> =
            text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
        assert!(referenced.contains("TextToImageCall") && referenced.contains("ColdStart"), "{referenced:?}");
        assert_eq!(referenced.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    #[test]
    fn the_page_for_people_names_every_path_and_field_of_the_calls() {
        let page = include_str!("../../docs/api.md");
        let document = serde_json::to_value(document()).unwrap();
        for endpoint in endpoints().iter().filter(|endpoint| endpoint.methods.contains(&Method::POST)) {
            let is_alias_of_fetch = matches!(endpoint.operation, Operation::FetchByBody(_) | Operation::FetchByPath(_));
            assert!(is_alias_of_fetch || page.contains(&format!("{}`", endpoint.path)), "{}", endpoint.path);
        }
        for call in ["TextToImageCall", "ExtensionFields", "PictureFields", "OpenAiImageCall", "OpenAiEditFields"] {
            for field in document["components"]["schemas"][call]["properties"].as_object().unwrap().keys() {
                assert!(page.contains(&format!("`{field}`")), "{field} of {call}");
            }
        }
    }

    #[test]
    fn bodies_with_pictures_are_json_or_multipart() {
        let document = serde_json::to_value(document()).unwrap();
        for path in ["/api/v7/images/inpaint", "/v1/images/edits"] {
            let content = &document["paths"][path]["post"]["requestBody"]["content"];
            for media_type in ["application/json", "multipart/form-data"] {
                assert_eq!(content[media_type]["schema"]["allOf"].as_array().map(Vec::len), Some(3), "{path} {media_type}");
            }
        }
        assert_eq!(document["components"]["schemas"]["OpenAiEditFields"]["properties"]["image"]["format"], "binary");
    }

    #[test]
    fn fields_of_the_calls_are_documented_with_their_types() {
        let document = serde_json::to_value(document()).unwrap();
        let call = &document["components"]["schemas"]["TextToImageCall"]["properties"];
        assert_eq!(call["width"]["type"], serde_json::json!(["integer", "null"]));
        assert_eq!(call["prompt"]["type"], serde_json::json!(["string", "null"]));
        let operation = &document["paths"]["/api/v7/images/text-to-image"]["post"];
        assert_eq!(
            operation["requestBody"]["content"]["application/json"]["schema"]["allOf"][0]["$ref"],
            "#/components/schemas/TextToImageCall"
        );
        assert_eq!(document["components"]["schemas"]["OpenAiError"]["properties"]["error"]["$ref"], "#/components/schemas/ErrorDetails");
    }
}
