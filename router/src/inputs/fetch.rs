//! Fetches pictures from where callers say, as far as [`AddressRules`] let it: names are resolved once, each connection goes to exactly an
//! address that was checked, every redirect is checked like the first URL, and bytes, time and redirects are bounded. No proxy is used: it
//! would resolve names elsewhere. What comes is not looked at here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig};
use url::{Host, Url};

use super::INPUT_LIMIT_BYTES;
use super::address::{AddressRules, UrlError, target};

/// For one picture, redirects included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// URLs that one picture may lead through.
const REDIRECTS_LIMIT: usize = 4;
/// Addresses of one name that are tried.
const ADDRESSES_LIMIT: usize = 4;
/// Bytes of an answer's head.
const HEAD_LIMIT_BYTES: usize = 32 * 1024;

/// Why a picture was not fetched. The text follows the field's name and tells callers nothing of the inside.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("leads to an address that is not public")]
    NotPublic,
    #[error("leads to a server that cannot be reached")]
    Unreachable,
    #[error("leads to a server that did not answer as one should")]
    Broken,
    #[error("leads to a server that answered with status {0}")]
    Status(u16),
    #[error("leads through more than {REDIRECTS_LIMIT} redirects")]
    Redirects,
    #[error("leads to a file of more than {INPUT_LIMIT_BYTES} bytes")]
    TooLarge,
    #[error("leads to a file that did not arrive within {} s", FETCH_TIMEOUT.as_secs())]
    TimedOut,
}

/// Fetches under rules. Holds no connection between two pictures.
#[derive(Debug)]
pub struct Fetcher {
    rules: AddressRules,
    /// Made when first needed: it reads the machine's certificates.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
}

/// What one URL answered.
enum Answer {
    File(Bytes),
    Redirect(Url),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Fetcher {
    pub fn new(rules: AddressRules) -> Self {
        Self { rules, tls: OnceLock::new() }
    }

    /// The bytes at `url`, whatever they are.
    pub async fn fetch(&self, url: &Url) -> Result<Bytes, FetchError> {
        timeout(FETCH_TIMEOUT, self.follow(url)).await.unwrap_or(Err(FetchError::TimedOut))
    }

    async fn follow(&self, url: &Url) -> Result<Bytes, FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_LIMIT {
            match self.get(&url).await? {
                Answer::File(bytes) => return Ok(bytes),
                Answer::Redirect(next) => url = next,
            }
        }
        Err(FetchError::Redirects)
    }

    async fn get(&self, url: &Url) -> Result<Answer, FetchError> {
        let (host, port) = target(url)?;
        let tcp = self.connect(&host, port).await?;
        let stream: Box<dyn Stream> = if url.scheme() == "https" { Box::new(self.encrypt(tcp, &host).await?) } else { Box::new(tcp) };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LIMIT_BYTES)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|_| FetchError::Broken)?;
        let exchange = async {
            let request = request(url, &host, port).ok_or(FetchError::Url(UrlError::Scheme))?;
            let response = sender.send_request(request).await.map_err(|_| FetchError::Broken)?;
            read(url, response).await
        };
        // Both in one task: when this future is dropped the connection is, too.
        tokio::select! {
            answer = exchange => answer,
            // The answer may have come whole with the end of the connection; then the exchange ends by itself.
            () = async { if connection.await.is_ok() { std::future::pending().await } } => Err(FetchError::Broken),
        }
    }

    /// Connects to an address of the host that the rules allow, and to no other.
    async fn connect(&self, host: &Host<&str>, port: u16) -> Result<TcpStream, FetchError> {
        let mut result = Err(FetchError::NotPublic);
        for address in
            self.addresses(host, port).await?.into_iter().filter(|address| self.rules.allow(host, *address)).take(ADDRESSES_LIMIT)
        {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(_)) | Err(_) => result = Err(FetchError::Unreachable),
            }
        }
        result
    }

    async fn addresses(&self, host: &Host<&str>, port: u16) -> Result<Vec<SocketAddr>, FetchError> {
        match host {
            Host::Ipv4(ip) => Ok(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
            Host::Ipv6(ip) => Ok(vec![SocketAddr::new(IpAddr::V6(*ip), port)]),
            Host::Domain(name) => match tokio::net::lookup_host((*name, port)).await {
                Ok(addresses) => Ok(addresses.collect()),
                Err(_) => Err(FetchError::Unreachable),
            },
        }
    }

    async fn encrypt(&self, tcp: TcpStream, host: &Host<&str>) -> Result<impl Stream + use<>, FetchError> {
        let config =
            self.tls.get_or_init(|| tls().inspect_err(|error| tracing::error!("no picture can be fetched over TLS: {error}")).ok());
        let config = config.clone().ok_or(FetchError::Unreachable)?;
        let name = match host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned()).map_err(|_| FetchError::Unreachable)?,
            Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
        };
        let handshake = timeout(CONNECT_TIMEOUT, TlsConnector::from(config).connect(name, tcp)).await;
        handshake.map_err(|_| FetchError::Unreachable)?.map_err(|_| FetchError::Broken)
    }
}

fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn request(url: &Url, host: &Host<&str>, port: u16) -> Option<Request<Empty<Bytes>>> {
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let authority = if url.port().is_some() { format!("{host}:{port}") } else { host.to_string() };
    Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("emulsion/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "image/png, image/jpeg, image/webp")
        .body(Empty::new())
        .ok()
}

async fn read(url: &Url, response: Response<Incoming>) -> Result<Answer, FetchError> {
    let status = response.status();
    if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let next = location.and_then(|location| url.join(location).ok()).ok_or(FetchError::Broken)?;
        return Ok(Answer::Redirect(next));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(status.as_u16()));
    }
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > INPUT_LIMIT_BYTES as u64) {
        return Err(FetchError::TooLarge);
    }
    let mut body = response.into_body();
    let mut file = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| FetchError::Broken)?.into_data() else { continue };
        if data.len() > INPUT_LIMIT_BYTES - file.len() {
            return Err(FetchError::TooLarge);
        }
        file.extend_from_slice(&data);
    }
    Ok(Answer::File(file.freeze()))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{HeaderMap, Uri};
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
