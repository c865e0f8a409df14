//! Fetches pictures from where callers say, as far as [`AddressRules`] let it: redirects are checked like the first URL, and bytes and time
//! are bounded. What comes is not looked at here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use egress::header::{ACCEPT, CONTENT_LENGTH};
use egress::{AddressRules, Body, Client, EgressError, HeaderMap, Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::INPUT_LIMIT_BYTES;

/// For one picture, redirects included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a picture was not fetched. The text follows the field's name and tells callers nothing of the inside.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("leads to a server that answered with status {0}")]
    Status(u16),
    #[error("leads to a file of more than {INPUT_LIMIT_BYTES} bytes")]
    TooLarge,
    #[error("leads to a file that did not arrive within {} s", FETCH_TIMEOUT.as_secs())]
    TimedOut,
}

/// Fetches under rules. Holds no connection between two pictures.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
}

impl Fetcher {
    pub fn new(rules: AddressRules) -> Self {
        Self { client: Client::new(rules) }
    }

    /// The bytes at `url`, whatever they are.
    pub async fn fetch(&self, url: &Url) -> Result<Bytes, FetchError> {
        timeout(FETCH_TIMEOUT, self.get(url)).await.unwrap_or(Err(FetchError::TimedOut))
    }

    async fn get(&self, url: &Url) -> Result<Bytes, FetchError> {
        let headers = HeaderMap::from_iter([(ACCEPT, ACCEPTED)]);
        let (_, response) = self.client.get(url, &headers, None).await?;
        read(response).await
    }
}

const ACCEPTED: egress::header::HeaderValue = egress::header::HeaderValue::from_static("image/png, image/jpeg, image/webp");

async fn read(response: Response<Body>) -> Result<Bytes, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > INPUT_LIMIT_BYTES as u64) {
        return Err(FetchError::TooLarge);
    }
    let mut body = response.into_body();
    let mut file = BytesMut::new();
    while let Some(data) = body.chunk().await? {
        if data.len() > INPUT_LIMIT_BYTES - file.len() {
            return Err(FetchError::TooLarge);
        }
        file.extend_from_slice(&data);
    }
    Ok(file.freeze())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Uri;
    use axum::http::header::HOST;
    use axum::response::{IntoResponse, Redirect};
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    /// A server on loopback; `inside` is where it sends whoever asks for `/inside`.
    async fn serve(inside: String) -> String {
        let endless = || async { Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0_u8; 1 << 20]))) };
        let routes = Router::new()
            .route("/file", get(|uri: Uri, headers: HeaderMap| async move { format!("{uri} {}", headers[HOST].to_str().unwrap()) }))
            .route("/hop", get(|| async { Redirect::temporary("file?hops=1") }))
            .route("/loop", get(|| async { Redirect::permanent("/loop") }))
            .route("/inside", get(|| async move { Redirect::temporary(&inside) }))
            .route("/nowhere", get(|| async { StatusCode::FOUND.into_response() }))
            .route("/endless", get(endless))
            .route(
                "/large",
                get(|| async {
                    ([(CONTENT_LENGTH, "16777217")], Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()))
                }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        base
    }

    fn fetcher(networks: &[&str]) -> Fetcher {
        Fetcher::new(AddressRules {
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            ..AddressRules::default()
        })
    }

    async fn fetch(fetcher: &Fetcher, url: &str) -> Result<Bytes, String> {
        fetcher.fetch(&Url::parse(url).unwrap()).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn files_are_fetched_also_by_name_and_behind_redirects() {
        let base = serve(String::new()).await;
        let port = base.rsplit(':').next().unwrap();
        let fetcher = fetcher(&["127.0.0.0/8", "::1/128"]);
        assert_eq!(fetch(&fetcher, &format!("{base}/file?a=b%20c#d")).await.unwrap(), format!("/file?a=b%20c 127.0.0.1:{port}"));
        assert_eq!(fetch(&fetcher, &format!("{base}/hop")).await.unwrap(), format!("/file?hops=1 127.0.0.1:{port}"));
        assert_eq!(fetch(&fetcher, &format!("http://localhost:{port}/file")).await.unwrap(), format!("/file localhost:{port}"));
    }

    #[tokio::test]
    async fn what_leads_inside_is_refused_at_every_hop_without_a_packet() {
        let victim = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let victim_url = format!("http://{}/", victim.local_addr().unwrap());
        let base = serve(victim_url.clone()).await;
        let port = base.rsplit(':').next().unwrap();
        for url in [victim_url.clone(), format!("{base}/file"), format!("http://localhost:{port}/file")] {
            assert_eq!(fetch(&fetcher(&[]), &url).await.unwrap_err(), "leads to an address that is not public", "{url}");
        }
        let only_server = fetcher(&["127.0.0.1/32"]);
        assert_eq!(fetch(&only_server, &format!("{base}/inside")).await.unwrap_err(), "leads to an address that is not public");
        let untouched = tokio::time::timeout(Duration::ZERO, victim.accept()).await;
        assert!(untouched.is_err(), "somebody connected");
    }

    #[tokio::test]
    async fn redirects_status_and_size_are_bounded() {
        let base = serve("ftp://a.example/".to_owned()).await;
        let fetcher = fetcher(&["127.0.0.1/32"]);
        for (path, reason) in [
            ("/loop", "leads through more than 4 redirects"),
            ("/inside", "is no http:// or https:// URL"),
            ("/nowhere", "leads to a server that did not answer as one should"),
            ("/missing", "leads to a server that answered with status 404"),
            ("/endless", "leads to a file of more than 16777216 bytes"),
            ("/large", "leads to a file of more than 16777216 bytes"),
        ] {
            assert_eq!(fetch(&fetcher, &format!("{base}{path}")).await.unwrap_err(), reason, "{path}");
        }
    }

    #[tokio::test]
    async fn servers_that_are_not_there_or_speak_no_http_are_told_apart() {
        let fetcher = fetcher(&["127.0.0.1/32"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rude = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
            }
        });
        for scheme in ["http", "https"] {
            let reason = fetch(&fetcher, &format!("{scheme}://{address}/")).await.unwrap_err();
            assert_eq!(reason, "leads to a server that did not answer as one should", "{scheme}");
        }
        rude.await.unwrap();
        assert_eq!(fetch(&fetcher, &format!("http://{address}/")).await.unwrap_err(), "leads to a server that cannot be reached");
    }
}
