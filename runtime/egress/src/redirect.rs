//! GET through redirects: each is checked like the first URL, their number is bounded, and credentials stay with the origin that they are for.

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue, LOCATION};
use hyper::{HeaderMap, Request, Response, StatusCode};
use url::Url;

use crate::client::{Body, Client, EgressError};

/// URLs that one request may lead through.
pub const REDIRECTS_LIMIT: usize = 4;

/// What is said to one origin and to nobody else. Never printed.
#[derive(Clone)]
pub struct Credentials(HeaderValue);

impl Credentials {
    /// `None` where the text cannot stand in a header.
    pub fn bearer(token: &str) -> Option<Self> {
        Self::from_text(&format!("Bearer {token}"))
    }

    /// The value of `Authorization`, whatever its scheme.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credentials(<redacted>)")
    }
}

impl Client {
    /// What is at `url`, behind at most [`REDIRECTS_LIMIT`] redirects, and where that was. Any other status is an answer.
    ///
    /// # Errors
    /// [`EgressError`].
    pub async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        credentials: Option<&Credentials>,
    ) -> Result<(Url, Response<Body>), EgressError> {
        let mut current = url.clone();
        for _ in 0..=REDIRECTS_LIMIT {
            let mut request = Request::new(Bytes::new());
            *request.headers_mut() = headers.clone();
            if let Some(Credentials(value)) = credentials.filter(|_| current.origin() == url.origin()) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let response = self.send(&current, request).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok((current, response));
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| current.join(location).ok()).ok_or(EgressError::Broken)?;
            if current.scheme() == "https" && next.scheme() == "http" {
                return Err(EgressError::Downgrade);
            }
            current = next;
        }
        Err(EgressError::Redirects)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::AddressRules;

    async fn serve(routes: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        base
    }

    async fn text(mut body: Body) -> String {
        let mut text = String::new();
        while let Some(chunk) = body.chunk().await.unwrap() {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn credentials_stay_with_their_origin() {
        let told = || {
            get(
                |headers: HeaderMap| async move { format!("{:?}", headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned())) },
            )
        };
        let other = serve(Router::new().route("/file", told())).await;
        let away = format!("{other}/file");
        let own = Router::new()
            .route("/file", told())
            .route("/here", get(|| async { Redirect::temporary("/file") }))
            .route("/away", get(|| async move { Redirect::temporary(&away) }));
        let own = serve(own).await;
        let client = Client::new(AddressRules { networks: vec!["127.0.0.0/8".parse().unwrap()], ..AddressRules::default() });
        let credentials = Credentials::bearer("secret").unwrap();
        for (path, seen) in [("file", "Some(\"Bearer secret\")"), ("here", "Some(\"Bearer secret\")"), ("away", "None")] {
            let url = Url::parse(&format!("{own}/{path}")).unwrap();
            let (_, response) = client.get(&url, &HeaderMap::new(), Some(&credentials)).await.unwrap();
            assert_eq!(text(response.into_body()).await, seen, "{path}");
        }
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
