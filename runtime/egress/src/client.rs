//! One request on a connection of its own: names are resolved once, and the connection goes to exactly an address that was checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig};
use url::{Host, Url};

use crate::address::{AddressRules, UrlError, target};
use crate::redirect::REDIRECTS_LIMIT;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES_LIMIT: usize = 4;
/// Bytes of an answer's head.
const HEAD_LIMIT_BYTES: usize = 32 * 1024;

/// Why there is no answer. The text follows the name of what held the URL, and tells nothing of the inside.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("leads to an address that is not public")]
    NotPublic,
    #[error("leads to a server that cannot be reached")]
    Unreachable,
    #[error("leads to a server that did not answer as one should")]
    Broken,
    #[error("leads through more than {REDIRECTS_LIMIT} redirects")]
    Redirects,
    #[error("leads from https:// to http://, where anybody on the way could change what comes")]
    Downgrade,
}

/// Sends requests under rules. Holds no connection between two of them.
#[derive(Debug)]
pub struct Client {
    rules: AddressRules,
    /// Made when first needed: it reads the machine's certificates.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What comes after an answer's head. Dropping it ends the connection.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    _connection: Connection,
}

impl Body {
    /// The next bytes; `None` after the last ones.
    ///
    /// # Errors
    /// [`EgressError::Broken`] when the connection ends before the answer does.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, EgressError> {
        while let Some(frame) = self.incoming.frame().await {
            if let Ok(data) = frame.map_err(|_| EgressError::Broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Client {
    pub fn new(rules: AddressRules) -> Self {
        Self { rules, tls: OnceLock::new() }
    }

    /// Sends one request and follows no redirect. `Host` and `User-Agent` are set here.
    ///
    /// # Errors
    /// [`EgressError`]. Any status is an answer.
    pub async fn send(&self, url: &Url, request: Request<Bytes>) -> Result<Response<Body>, EgressError> {
        let (host, port) = target(url)?;
        let tcp = self.connect(&host, port).await?;
        let stream: Box<dyn Stream> = if url.scheme() == "https" { Box::new(self.encrypt(tcp, &host).await?) } else { Box::new(tcp) };
        let handshake = http1::Builder::new().max_buf_size(HEAD_LIMIT_BYTES).handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|_| EgressError::Broken)?;
        let connection = Connection(tokio::spawn(async move {
            // How it ended is seen by whoever reads the answer.
            let _ = connection.await;
        }));
        let request = addressed(request, url, &host, port).ok_or(UrlError::Scheme)?;
        let response = sender.send_request(request).await.map_err(|_| EgressError::Broken)?;
        Ok(response.map(|incoming| Body { incoming, _connection: connection }))
    }

    /// Connects to an address of the host that the rules allow, and to no other.
    async fn connect(&self, host: &Host<&str>, port: u16) -> Result<TcpStream, EgressError> {
        let mut result = Err(EgressError::NotPublic);
        let addresses = addresses(host, port).await?.into_iter().filter(|address| self.rules.allow(host, *address));
        for address in addresses.take(ADDRESSES_LIMIT) {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(_)) | Err(_) => result = Err(EgressError::Unreachable),
            }
        }
        result
    }

    async fn encrypt(&self, tcp: TcpStream, host: &Host<&str>) -> Result<impl Stream + use<>, EgressError> {
        let config = self.tls.get_or_init(|| tls().inspect_err(|error| tracing::error!("nothing can be fetched over TLS: {error}")).ok());
        let config = config.clone().ok_or(EgressError::Unreachable)?;
        let name = match host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned()).map_err(|_| EgressError::Unreachable)?,
            Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
            Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
        };
        let handshake = timeout(CONNECT_TIMEOUT, TlsConnector::from(config).connect(name, tcp)).await;
        handshake.map_err(|_| EgressError::Unreachable)?.map_err(|_| EgressError::Broken)
    }
}

/// What drives a connection; dropping it ends that, so that an answer that is given up leaves nothing behind.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn addresses(host: &Host<&str>, port: u16) -> Result<Vec<SocketAddr>, EgressError> {
    match host {
        Host::Ipv4(ip) => Ok(vec![SocketAddr::new(IpAddr::V4(*ip), port)]),
        Host::Ipv6(ip) => Ok(vec![SocketAddr::new(IpAddr::V6(*ip), port)]),
        Host::Domain(name) => match tokio::net::lookup_host((*name, port)).await {
            Ok(addresses) => Ok(addresses.collect()),
            Err(_) => Err(EgressError::Unreachable),
        },
    }
}

fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn addressed(request: Request<Bytes>, url: &Url, host: &Host<&str>, port: u16) -> Option<Request<Full<Bytes>>> {
    let (mut parts, body) = request.into_parts();
    parts.uri = url[url::Position::BeforePath..url::Position::AfterQuery].parse::<Uri>().ok()?;
    let authority = if url.port().is_some() { format!("{host}:{port}") } else { host.to_string() };
    parts.headers.insert(HOST, HeaderValue::from_str(&authority).ok()?);
    parts.headers.insert(USER_AGENT, HeaderValue::from_static(concat!("emulsion/", env!("CARGO_PKG_VERSION"))));
    Some(Request::from_parts(parts, Full::new(body)))
}
