//! What every store of outputs must do, as replicas and callers meet it: over HTTP. Each fact is a function over an empty store; the folder and
//! the bucket pass the very same ones.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use bytes::Bytes;
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, IF_NONE_MATCH};
use reqwest::{Client, Response, StatusCode};
use runtime_api::OutputFormat;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{FolderStore, OUTPUT_LIMIT_BYTES, OutputError, OutputStore, S3Outputs, Secret, redirect_routes, routes};
use crate::s3::server;

const GENERATION: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
const PNG: OutputFormat = OutputFormat::Png;
const SOON: Duration = Duration::from_secs(60);
/// Until a URL that was signed for one second is refused.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store, the address of its router, and what lives as long as it.
struct Stand {
    store: Arc<dyn OutputStore>,
    base: String,
    client: Client,
    _life: Box<dyn std::any::Any>,
}

folder_and_bucket!(
    an_output_is_missing_until_it_is_put_and_then_read_by_everybody,
    an_output_is_written_once_whatever_a_replica_says,
    a_url_is_good_for_its_own_output_alone,
    a_url_ends,
    a_removed_output_is_missing,
    names_are_the_same_for_every_router_and_nobody_elses,
);

async fn in_folder() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(FolderStore::open(folder.path(), secret()).unwrap());
    let base = serve(routes(Arc::clone(&store))).await;
    Stand { store, base, client: client(), _life: Box::new(folder) }
}

async fn in_bucket() -> Stand {
    let server = server::start().await;
    let bucket = Arc::new(server.bucket("s3://images/some/prefix").await);
    let store = Arc::new(S3Outputs::new(bucket, secret()));
    let base = serve(redirect_routes(Arc::clone(&store))).await;
    Stand { store, base, client: client(), _life: Box::new(server) }
}

fn secret() -> Secret {
    Secret::from_bytes([5; 32])
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    format!("http://{address}")
}

fn file(format: OutputFormat, side: u32) -> Bytes {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let kind = image::ImageFormat::from_mime_type(format.media_type()).unwrap();
    image::RgbImage::new(side, side).write_to(&mut bytes, kind).unwrap();
    bytes.into_inner().into()
}

/// With another signature.
fn tampered(url: &str) -> String {
    let (rest, last) = url.split_at(url.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

impl Stand {
    async fn put_url(&self, image: u32, format: OutputFormat, lifetime: Duration) -> String {
        self.store.signed_put_url(&self.base, GENERATION, image, format, SystemTime::now() + lifetime).await.unwrap()
    }

    /// As a replica does.
    async fn put(&self, url: &str, format: OutputFormat, file: Bytes) -> StatusCode {
        let put = self.client.put(url).header(IF_NONE_MATCH, "*").header(CONTENT_TYPE, format.media_type());
        put.body(file).send().await.unwrap().status()
    }

    async fn stored(&self, image: u32, format: OutputFormat, file: &Bytes) {
        let url = self.put_url(image, format, SOON).await;
        assert!(self.put(&url, format, file.clone()).await.is_success());
    }

    /// As a caller does, who follows redirects.
    async fn get(&self, image: u32, format: OutputFormat) -> Response {
        let url = format!("{}{}", self.base, self.store.public_path(GENERATION, image, format));
        self.client.get(url).send().await.unwrap()
    }

    async fn read(&self, image: u32, format: OutputFormat) -> Option<Bytes> {
        let read = self.store.read(GENERATION, image, format).await.unwrap();
        assert_eq!(self.store.exists(GENERATION, image, format).await.unwrap(), read.is_some());
        read
    }
}

async fn an_output_is_missing_until_it_is_put_and_then_read_by_everybody(stand: &Stand) {
    for (image, format) in OutputFormat::ALL.into_iter().enumerate() {
        let (image, file) = (image as u32, file(format, 3));
        assert_eq!(stand.read(image, format).await, None);
        let missing = stand.get(image, format).await;
        assert_eq!((missing.status(), missing.headers()[CACHE_CONTROL].to_str().unwrap()), (StatusCode::NOT_FOUND, "no-store"));
        stand.stored(image, format, &file).await;
        assert_eq!(stand.read(image, format).await.as_ref(), Some(&file));
        let found = stand.get(image, format).await;
        assert_eq!((found.status(), found.headers()[CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, format.media_type()));
        assert_eq!(found.bytes().await.unwrap(), file);
        let url = format!("{}{}", stand.base, stand.store.public_path(GENERATION, image, format));
        let head = stand.client.head(url).send().await.unwrap();
        assert_eq!((head.status(), head.headers()["content-length"].to_str().unwrap()), (StatusCode::OK, file.len().to_string().as_str()));
        assert_eq!(head.headers()[CONTENT_TYPE].to_str().unwrap(), format.media_type());
    }
    let elsewhere = stand.client.get(format!("{}/outputs/..%2fsecret.png", stand.base)).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
}

async fn an_output_is_written_once_whatever_a_replica_says(stand: &Stand) {
    let first = file(PNG, 2);
    stand.stored(0, PNG, &first).await;
    let url = stand.put_url(0, PNG, SOON).await;
    assert_eq!(stand.put(&url, PNG, file(PNG, 9)).await, StatusCode::PRECONDITION_FAILED);
    // A replica that leaves the condition out, or puts another, gets no further.
    let put = || stand.client.put(&url).header(CONTENT_TYPE, "image/png").body(file(PNG, 9));
    for put in [put(), put().header(IF_NONE_MATCH, "\"other\"")] {
        assert!(put.send().await.unwrap().status().is_client_error());
    }
    assert_eq!(stand.read(0, PNG).await, Some(first));
}

async fn a_url_is_good_for_its_own_output_alone(stand: &Stand) {
    let (own, other) = (stand.put_url(0, PNG, SOON).await, stand.put_url(1, PNG, SOON).await);
    let (path, query) = (own.split_once('?').unwrap().0, other.split_once('?').unwrap().1);
    for refused in [path.to_owned(), format!("{path}?{query}"), tampered(&own), own.replace(".png", ".webp")] {
        assert_eq!(stand.put(&refused, PNG, file(PNG, 2)).await, StatusCode::FORBIDDEN, "{refused}");
    }
    assert_eq!((stand.read(0, PNG).await, stand.read(1, PNG).await), (None, None));
}

async fn a_url_ends(stand: &Stand) {
    let url = stand.put_url(0, PNG, Duration::from_secs(1)).await;
    stand.stored(0, PNG, &file(PNG, 2)).await;
    // Until it has ended it is refused for what it would overwrite.
    let until = tokio::time::Instant::now() + PATIENCE;
    while stand.put(&url, PNG, file(PNG, 2)).await != StatusCode::FORBIDDEN {
        assert!(tokio::time::Instant::now() < until, "it never ended");
        tokio::task::yield_now().await;
    }
}

async fn a_removed_output_is_missing(stand: &Stand) {
    stand.stored(0, PNG, &file(PNG, 2)).await;
    for _ in 0..2 {
        stand.store.remove(GENERATION, 0, PNG).await.unwrap();
        assert_eq!(stand.read(0, PNG).await, None);
        assert_eq!(stand.get(0, PNG).await.status(), StatusCode::NOT_FOUND);
    }
}

async fn names_are_the_same_for_every_router_and_nobody_elses(stand: &Stand) {
    let folder = tempfile::tempdir().unwrap();
    let with = |secret| FolderStore::open(folder.path(), secret).unwrap().public_path(GENERATION, 0, PNG);
    assert_eq!(stand.store.public_path(GENERATION, 0, PNG), with(secret()));
    assert_ne!(stand.store.public_path(GENERATION, 0, PNG), with(Secret::from_bytes([6; 32])));
}

#[tokio::test]
async fn a_replica_puts_images_into_a_bucket_and_nothing_else() {
    let stand = in_bucket().await;
    let url = stand.put_url(0, PNG, SOON).await;
    let put = stand.client.put(&url).header(IF_NONE_MATCH, "*").header(CONTENT_TYPE, "text/html").body("<script>");
    assert_eq!(put.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(stand.read(0, PNG).await, None);
}

#[tokio::test]
async fn an_object_beyond_the_limit_counts_as_no_image() {
    let stand = in_bucket().await;
    let url = stand.put_url(0, PNG, SOON).await;
    assert!(stand.put(&url, PNG, Bytes::from(vec![0; OUTPUT_LIMIT_BYTES + 1])).await.is_success());
    assert!(matches!(stand.store.exists(GENERATION, 0, PNG).await, Err(OutputError::TooLarge)));
    assert!(matches!(stand.store.read(GENERATION, 0, PNG).await, Err(OutputError::TooLarge)));
}

#[tokio::test]
async fn callers_are_sent_to_the_address_that_is_theirs() {
    let server = server::start().await;
    let options = crate::s3::S3Options { s3_public_endpoint: Some("https://pictures.example".to_owned()), ..server.options() };
    let credentials = aws_sdk_s3::config::Credentials::new(server::ACCESS_KEY_ID, server::SECRET_ACCESS_KEY, None, None, "test");
    let bucket = crate::s3::Bucket::open(&"s3://images".parse().unwrap(), &options, credentials).await.unwrap();
    let store = Arc::new(S3Outputs::new(Arc::new(bucket), secret()));
    let base = serve(redirect_routes(Arc::clone(&store))).await;
    let path = store.public_path(GENERATION, 0, PNG);
    let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let stand = Stand { store, base, client, _life: Box::new(server) };
    stand.stored(0, PNG, &file(PNG, 2)).await;
    let answer = stand.client.get(format!("{}{path}", stand.base)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    let location = answer.headers()["location"].to_str().unwrap();
    assert!(location.starts_with("https://pictures.example/images/outputs/") && location.contains("X-Amz-Signature="), "{location}");
    // S3 is told what to answer with; the server of the tests does not do it.
    assert!(location.contains("response-content-type=image%2Fpng") && location.contains("immutable"), "{location}");
    assert!(!location.contains(server::SECRET_ACCESS_KEY));
}
