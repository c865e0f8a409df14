//! One call as it arrives: its fields, its key, and the address its caller reached us at.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::OwnedSemaphorePermit;

use super::multipart;
use crate::accounts::ApiKey;
use crate::bounded_body::{BodyError, read_bounded};
use crate::dialect::{Content, Fields, fields};
use crate::generation::{Generation, Submission};
use crate::outputs::OutputError;
use crate::refusal::Refusal;
use crate::service::{Service, Settings};
use crate::store::Caller;

/// What a dialect is given.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) content: Content,
    pub(super) caller: Caller,
    /// Without a trailing slash; empty where neither the settings nor the caller tell, and links are then relative.
    pub(super) public_url: String,
    /// Held while the body is in memory, where it may be large.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// Reads the body within the settings' bounds, then finds out who calls.
    pub(super) async fn read(service: &Service, request: Request) -> Result<Self, Refusal> {
        Self::read_within(service, request, service.settings().body_limit_bytes, None).await
    }

    /// The same where the body may hold pictures.
    pub(super) async fn read_with_pictures(service: &Service, request: Request) -> Result<Self, Refusal> {
        let room = service.picture_body_room().await?;
        Self::read_within(service, request, service.settings().picture_body_limit_bytes, Some(room)).await
    }

    async fn read_within(
        service: &Service,
        request: Request,
        limit_bytes: usize,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let content = read_content(service.settings(), &parts, body, limit_bytes).await?;
        let caller = service.authenticate(find_key(&parts, &content.fields).as_ref()).await?;
        Ok(Self { content, caller, public_url: public_url(service.settings(), &parts), room })
    }
}

async fn read_content(settings: &Settings, parts: &Parts, body: Body, limit_bytes: usize) -> Result<Content, Refusal> {
    let body = read_bounded(&parts.headers, body, limit_bytes, settings.body_timeout).await.map_err(|error| match error {
        BodyError::TooLarge { limit_bytes } => Refusal::BodyTooLarge { limit_bytes },
        BodyError::TimedOut => Refusal::BodyTimeout { limit: settings.body_timeout },
        BodyError::Broken => Refusal::BodyMalformed { message: "the request body did not arrive whole".to_owned() },
    })?;
    let query = parts.uri.query();
    match multipart::boundary(&parts.headers) {
        Some(boundary) => {
            let mut content = multipart::read(boundary, body).await?;
            content.fields = fields::with_query(content.fields, query)?;
            Ok(content)
        }
        None => fields::read(query, &body).map(Content::from),
    }
}

/// The body's key before `Authorization: Bearer`, the headers `key` and `X-API-Key`, and the query's: clients that send several mean the
/// same one, and the most deliberate place wins.
fn find_key(parts: &Parts, fields: &Fields) -> Option<ApiKey> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key)
    });
    // The fields hold the body's key, or the query's where the body has none; the query is asked last.
    let field = fields.get("key").and_then(|key| key.as_str());
    let in_query = parts
        .uri
        .query()
        .is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "key" && Some(&*value) == field));
    let (first, last) = if in_query { (None, field) } else { (field, None) };
    [first, bearer, header("key"), header("x-api-key"), last].into_iter().flatten().find_map(ApiKey::parse)
}

fn public_url(settings: &Settings, parts: &Parts) -> String {
    if let Some(url) = &settings.public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).or_else(|| parts.uri.authority().map(Authority::as_str));
    // Parsed, because it is written into links: a host with anything else in it is none.
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()).filter(|authority| !authority.as_str().contains('@')) else {
        return String::new();
    };
    // Only the caller itself sees these links, so a proxy's word on the scheme is taken without further proof.
    let forwarded = parts.headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    let scheme = if forwarded.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) { "https" } else { "http" };
    format!("{scheme}://{host}")
}

/// Names the model where the caller did not: the first that is ready, else the first. `field` is the dialect's name for it.
pub(super) fn fill_in_model(service: &Service, caller: &Caller, field: &str, submission: &mut Submission) -> Result<(), Refusal> {
    if !submission.request.model.is_empty() {
        return Ok(());
    }
    let models = service.models(caller);
    let mut checkpoints = models.iter().filter(|model| model.is_checkpoint());
    let model = checkpoints.clone().find(|model| model.ready).or(checkpoints.next());
    let model = model
        .ok_or_else(|| Refusal::Invalid { field: field.to_owned(), message: format!("{field} is required: no model is served yet") })?;
    submission.request.model.clone_from(&model.model_id);
    Ok(())
}

/// One finished image as base64.
pub(super) async fn read_image(service: &Service, generation: &Generation, image: u32) -> Result<String, Refusal> {
    match service.outputs().read(generation.id, image, generation.request.output_format).await {
        Ok(Some(file)) => Ok(STANDARD.encode(file)),
        Ok(None) => Err(lost(generation, image, None)),
        Err(error) => Err(lost(generation, image, Some(&error))),
    }
}

/// Every image of a generation that succeeded, as base64.
pub(super) async fn read_images(service: &Service, generation: &Generation) -> Result<Vec<String>, Refusal> {
    let mut images = Vec::new();
    for image in 0..generation.request.samples {
        images.push(read_image(service, generation, image).await?);
    }
    Ok(images)
}

fn lost(generation: &Generation, image: u32, error: Option<&OutputError>) -> Refusal {
    tracing::error!(generation = %generation.id, image, error = error.map(tracing::field::display), "a finished image cannot be read");
    Refusal::Internal
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn key(uri: &str, headers: &[(&str, &str)], body: &str) -> Option<String> {
        let parts = parts(uri, headers);
        let fields = fields::read(parts.uri.query(), body.as_bytes()).unwrap();
        find_key(&parts, &fields).map(|key| key.expose().to_owned())
    }

    #[test]
    fn key_is_found_wherever_clients_put_it_in_order() {
        let all = [("Authorization", "bearer in-bearer"), ("key", "in-key"), ("X-API-Key", "in-x")];
        assert_eq!(key("/?key=in-query", &all, r#"{"key": "in-body"}"#).as_deref(), Some("in-body"));
        assert_eq!(key("/?key=in-query", &all, "").as_deref(), Some("in-bearer"));
        assert_eq!(key("/?key=in-query", &all[1..], "").as_deref(), Some("in-key"));
        assert_eq!(key("/?key=in-query", &all[2..], "").as_deref(), Some("in-x"));
        assert_eq!(key("/?key=in-query", &[], "").as_deref(), Some("in-query"));
        assert_eq!(key("/", &[("Authorization", "Basic abc")], "{}"), None);
        assert_eq!(key("/", &[("Authorization", "Bearer in-bearer")], r#"{"key": ""}"#).as_deref(), Some("in-bearer"));
        assert_eq!(key("/", &[], r#"{"key": 5}"#), None);
    }

    #[test]
    fn links_lead_to_the_public_address_or_to_the_callers_host() {
        let from_host = Settings::default();
        assert_eq!(public_url(&from_host, &parts("/", &[("Host", "127.0.0.1:8080")])), "http://127.0.0.1:8080");
        assert_eq!(public_url(&from_host, &parts("/", &[("Host", "a.example"), ("X-Forwarded-Proto", "https")])), "https://a.example");
        assert_eq!(public_url(&from_host, &parts("/", &[("Host", "a.example/../x")])), "");
        assert_eq!(public_url(&from_host, &parts("/", &[("Host", "user@a.example")])), "");
        assert_eq!(public_url(&from_host, &parts("/", &[])), "");
        let declared = Settings { public_url: Some("https://images.example/".to_owned()), ..Settings::default() };
        assert_eq!(public_url(&declared, &parts("/", &[("Host", "127.0.0.1:8080")])), "https://images.example");
    }
}
