//! One bucket of an S3 store, below one prefix: what the stores of outputs, inputs and content have in common there. It knows none of them.
//!
//! Every request has a bound in time and attempts. Credentials and signed URLs are secrets: no error and no log shows them.

use std::fmt::{Debug, Display, Formatter};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use base64::Engine;
use bytes::{Bytes, BytesMut};
use clap::Args;

#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod serving;

/// The variables of its credentials, as every client of S3 names them.
pub const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
pub const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
pub const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
/// To reach the store at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One attempt, until its answer begins.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// All attempts at one operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(25);
const ATTEMPTS_LIMIT: u32 = 3;
/// An object that does not arrive whole within this time is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Names of objects that one answer to a listing holds; S3 knows no more.
const PAGE_OBJECTS: i32 = 1000;
/// Where nothing names a region. Stores other than Amazon's do not care.
const DEFAULT_REGION: &str = "us-east-1";
/// Bytes of a bucket's name and of a prefix together: leaves room for our own names within S3's 1,024 of a key.
const ADDRESS_LIMIT_BYTES: usize = 512;

/// Where the bucket is, and how it is reached.
#[derive(Clone, Debug, Default, Args)]
pub struct S3Options {
    /// Bucket for images, for the pictures that calls bring and for imported weights, s3://BUCKET or s3://BUCKET/PREFIX, which several routers may share; absent,
    /// they are in the data folder. Its credentials are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
    #[arg(long, env = "EMULSION_OUTPUTS", value_name = "URL")]
    pub outputs: Option<BucketUrl>,
    /// Address of the S3 store where it is not Amazon's, such as http://minio.storage:9000; replicas must reach it, too.
    #[arg(long, env = "EMULSION_S3_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub s3_endpoint: Option<String>,
    /// Address at which callers reach the S3 store, where it is another than the one of routers and replicas.
    #[arg(long, env = "EMULSION_S3_PUBLIC_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub s3_public_endpoint: Option<String>,
    /// Region of the bucket; absent, AWS_REGION or us-east-1.
    #[arg(long, env = "EMULSION_S3_REGION", value_name = "NAME")]
    pub s3_region: Option<String>,
    /// Name the bucket in the path and not in the host, as most stores but Amazon's want it.
    #[arg(long, env = "EMULSION_S3_PATH_STYLE")]
    pub s3_path_style: bool,
}

/// A bucket and the prefix of everything that is kept in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
}

impl FromStr for BucketUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "s3://BUCKET or s3://BUCKET/PREFIX is needed".to_owned();
        let (bucket, prefix) = text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))).ok_or_else(form)?;
        let is_name =
            |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) && !part.starts_with('.');
        let prefix = prefix.trim_end_matches('/');
        let parts_are_names = prefix.is_empty() || prefix.split('/').all(|part| !part.is_empty() && is_name(part));
        if bucket.is_empty() || !is_name(bucket) || !parts_are_names || text.len() > ADDRESS_LIMIT_BYTES {
            return Err(form());
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }
}

impl Display for BucketUrl {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// Why the store could not do what was asked. Never shows a signature.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    #[error("the credentials of the S3 store are missing: set {ACCESS_KEY_ID} and {SECRET_ACCESS_KEY}")]
    NoCredentials,
    #[error(
        "the bucket {url} cannot be used: {reason}; it must exist, and its credentials must allow to list it and to get, put and delete \
         objects"
    )]
    Open { url: BucketUrl, reason: String },
    #[error("the S3 store could not {operation}: {reason}")]
    Failed { operation: &'static str, reason: String },
    #[error("the object is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
}

/// Who is given a signed URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Replicas,
    Callers,
}

/// An object as a listing shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Without the prefix.
    pub path: String,
    pub modified: SystemTime,
}

/// An object without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub bytes: u64,
    /// When it was put last.
    pub modified: SystemTime,
}

/// What a signed read answers with, whatever its object was put with.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredAs {
    pub media_type: &'static str,
    pub cache_control: &'static str,
}

pub struct Bucket {
    url: BucketUrl,
    client: Client,
    /// Signs for the address that callers reach.
    public_client: Client,
}

impl Debug for Bucket {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Bucket({})", self.url)
    }
}

impl Bucket {
    /// Connects, and looks whether the bucket can be used.
    ///
    /// # Errors
    /// [`S3Error::Open`] when it is not reached, does not exist or may not be listed.
    pub async fn open(url: &BucketUrl, options: &S3Options, credentials: Credentials) -> Result<Self, S3Error> {
        let client = |endpoint: Option<&String>| Client::from_conf(config(options, endpoint, credentials.clone()));
        let public_endpoint = options.s3_public_endpoint.as_ref().or(options.s3_endpoint.as_ref());
        let bucket = Self { url: url.clone(), client: client(options.s3_endpoint.as_ref()), public_client: client(public_endpoint) };
        match bucket.client.list_objects_v2().bucket(&url.bucket).prefix(&url.prefix).max_keys(1).send().await {
            Ok(_) => Ok(bucket),
            Err(error) => Err(S3Error::Open { url: url.clone(), reason: describe(error) }),
        }
    }

    /// A URL good for one PUT of an object that does not exist, of the media type, until `expires`. Both conditions are signed: a PUT without
    /// the headers `If-None-Match: *` and `Content-Type` as given is refused.
    pub async fn signed_put_once(&self, path: &str, media_type: &str, expires: SystemTime) -> Result<String, S3Error> {
        let put = self.client.put_object().bucket(&self.url.bucket).key(self.key(path)).content_type(media_type).if_none_match("*");
        let signed = put.presigned(until(expires)?).await.map_err(|error| failed("sign a write", error))?;
        Ok(signed.uri().to_owned())
    }

    /// A URL good for one PUT of the bytes with this sha256, of the media type, until `expires`, and the headers that the PUT must have. The
    /// store refuses other bytes.
    pub async fn signed_put_of(
        &self,
        path: &str,
        media_type: &str,
        sha256: &[u8; 32],
        expires: SystemTime,
    ) -> Result<(String, Vec<(String, String)>), S3Error> {
        let put = self.client.put_object().bucket(&self.url.bucket).key(self.key(path)).content_type(media_type);
        let put = put.checksum_sha256(base64::engine::general_purpose::STANDARD.encode(sha256));
        let signed = put.presigned(until(expires)?).await.map_err(|error| failed("sign a write", error))?;
        let headers = signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok((signed.uri().to_owned(), headers))
    }

    /// A URL good for reading until `expires`, also before the object exists.
    pub async fn signed_get(&self, audience: Audience, path: &str, answer: AnsweredAs, expires: SystemTime) -> Result<String, S3Error> {
        let client = if audience == Audience::Callers { &self.public_client } else { &self.client };
        let get = client
            .get_object()
            .bucket(&self.url.bucket)
            .key(self.key(path))
            .response_content_type(answer.media_type)
            .response_cache_control(answer.cache_control);
        let signed = get.presigned(until(expires)?).await.map_err(|error| failed("sign a read", error))?;
        Ok(signed.uri().to_owned())
    }

    /// What is told of the object without reading it, or `None` while it is not there.
    pub async fn head(&self, path: &str) -> Result<Option<Head>, S3Error> {
        match self.client.head_object().bucket(&self.url.bucket).key(self.key(path)).send().await {
            Ok(head) => Ok(Some(Head {
                bytes: head.content_length().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
                modified: head.last_modified().map_or(SystemTime::UNIX_EPOCH, system_time),
            })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("look for an object", error)),
        }
    }

    /// The object, if it has no more than `limit_bytes`; `None` while it is not there.
    pub async fn read(&self, path: &str, limit_bytes: usize) -> Result<Option<Bytes>, S3Error> {
        let object = match self.client.get_object().bucket(&self.url.bucket).key(self.key(path)).send().await {
            Ok(object) => object,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed("read an object", error)),
        };
        let collected = tokio::time::timeout(READ_TIMEOUT, collect(object.body, limit_bytes)).await;
        collected
            .unwrap_or_else(|_| Err(S3Error::Failed { operation: "read an object", reason: "it did not arrive in time".to_owned() }))
            .map(Some)
    }

    /// Puts an object, whether one is there or not. Durable when it returns.
    pub async fn write(&self, path: &str, media_type: &str, bytes: Bytes) -> Result<(), S3Error> {
        let put = self.client.put_object().bucket(&self.url.bucket).key(self.key(path)).content_type(media_type);
        put.body(ByteStream::from(bytes)).send().await.map(|_| ()).map_err(|error| failed("write an object", error))
    }

    /// Copies an object within the bucket; whether it was there. Durable when it returns.
    pub async fn copy(&self, from: &str, to: &str) -> Result<bool, S3Error> {
        let source = format!("{}/{}", self.url.bucket, self.key(from));
        match self.client.copy_object().bucket(&self.url.bucket).key(self.key(to)).copy_source(source).send().await {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed("copy an object", error)),
        }
    }

    /// Removes an object; one that is not there is removed already.
    pub async fn remove(&self, path: &str) -> Result<(), S3Error> {
        match self.client.delete_object().bucket(&self.url.bucket).key(self.key(path)).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failed("remove an object", error)),
        }
    }

    /// A page of the objects whose path begins with `folder`, and where the next page begins.
    pub async fn list(&self, folder: &str, next: Option<String>) -> Result<(Vec<Listed>, Option<String>), S3Error> {
        let list = self.client.list_objects_v2().bucket(&self.url.bucket).prefix(self.key(folder)).max_keys(PAGE_OBJECTS);
        let page = list.set_continuation_token(next).send().await.map_err(|error| failed("list objects", error))?;
        let listed = page.contents().iter().filter_map(|object| {
            let path = object.key()?.strip_prefix(&self.url.prefix)?.to_owned();
            Some(Listed { path, modified: system_time(object.last_modified()?) })
        });
        let more = page.next_continuation_token().filter(|_| page.is_truncated() == Some(true)).map(str::to_owned);
        Ok((listed.collect(), more))
    }

    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.url.prefix)
    }
}

/// The credentials that the environment holds.
pub fn credentials_of_environment() -> Result<Credentials, S3Error> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable(ACCESS_KEY_ID), variable(SECRET_ACCESS_KEY)) {
        (Some(id), Some(key)) => Ok(Credentials::new(id, key, variable(SESSION_TOKEN), None, "environment")),
        _ => Err(S3Error::NoCredentials),
    }
}

fn config(options: &S3Options, endpoint: Option<&String>, credentials: Credentials) -> Config {
    let region = options.s3_region.clone().or_else(|| std::env::var("AWS_REGION").ok()).unwrap_or_else(|| DEFAULT_REGION.to_owned());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(credentials)
        .force_path_style(options.s3_path_style)
        .http_client(http_client(endpoint))
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_LIMIT))
        // Checksums beyond the signature's are new, and refused by many stores that speak S3.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = endpoint {
        config = config.endpoint_url(endpoint);
    }
    config.build()
}

/// Root certificates are read only where there is TLS: an image without any can still reach a store inside its cluster.
fn http_client(endpoint: Option<&String>) -> SharedHttpClient {
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        Builder::new().build_http()
    } else {
        Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
    }
}

fn until(expires: SystemTime) -> Result<PresigningConfig, S3Error> {
    // Rounded up to the seconds that a URL counts: it is good for at least as long as it was asked to be.
    let left = expires.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO).as_millis().div_ceil(1000);
    PresigningConfig::expires_in(Duration::from_secs(u64::try_from(left).unwrap_or(u64::MAX)))
        .map_err(|error| S3Error::Failed { operation: "sign a URL", reason: error.to_string() })
}

async fn collect(mut body: ByteStream, limit_bytes: usize) -> Result<Bytes, S3Error> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| S3Error::Failed { operation: "read an object", reason: error.to_string() })?;
        if bytes.len() + chunk.len() > limit_bytes {
            return Err(S3Error::TooLarge { limit_bytes });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn is_missing<E>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 404)
}

fn failed<E: std::error::Error + Send + Sync + 'static>(operation: &'static str, error: SdkError<E>) -> S3Error {
    S3Error::Failed { operation, reason: describe(error) }
}

fn describe<E: std::error::Error + Send + Sync + 'static>(error: SdkError<E>) -> String {
    match error.raw_response().map(|response| response.status().as_u16()) {
        Some(status) => match error.into_source() {
            Ok(source) => format!("it answered {status}: {source}"),
            Err(_) => format!("it answered {status}"),
        },
        None => DisplayErrorContext(error).to_string(),
    }
}

fn system_time(time: &DateTime) -> SystemTime {
    SystemTime::try_from(*time).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn endpoint(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let is_address = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/");
    if is_address { Ok(url.to_owned()) } else { Err("an address such as https://s3.example.com is needed".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_named_with_and_without_prefix() {
        let read = |text: &str| text.parse::<BucketUrl>().map(|url| (url.bucket, url.prefix));
        assert_eq!(read("s3://images"), Ok(("images".to_owned(), String::new())));
        assert_eq!(read("s3://images/"), Ok(("images".to_owned(), String::new())));
        assert_eq!(read("s3://images/prod/a"), Ok(("images".to_owned(), "prod/a/".to_owned())));
        for hostile in [
            "",
            "images",
            "s3://",
            "s3:///a",
            "https://images",
            "s3://a b",
            "s3://a/../b",
            "s3://a//b",
            &format!("s3://{}", "a".repeat(600)),
        ] {
            assert!(read(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn endpoints_are_addresses_without_a_path() {
        assert_eq!(endpoint("http://127.0.0.1:9000/"), Ok("http://127.0.0.1:9000".to_owned()));
        assert!(endpoint("minio:9000").is_err() && endpoint("http://minio/path").is_err() && endpoint("ftp://minio").is_err());
    }

    #[tokio::test]
    async fn a_bucket_that_cannot_be_used_says_why_and_keeps_its_secrets() {
        let server = server::start().await;
        let open = async |bucket: &str, secret: &str| {
            let credentials = Credentials::new(server::ACCESS_KEY_ID, secret, None, None, "test");
            Bucket::open(&bucket.parse().unwrap(), &server.options(), credentials).await
        };
        assert!(open("s3://images", server::SECRET_ACCESS_KEY).await.is_ok());
        for (bucket, secret, reason) in [("s3://other", server::SECRET_ACCESS_KEY, "404"), ("s3://images", "wrong-secret", "403")] {
            let error = open(bucket, secret).await.unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(bucket) && !error.contains(secret), "{error}");
        }
    }

    #[tokio::test]
    async fn objects_beyond_a_limit_are_not_read() {
        let server = server::start().await;
        let bucket = server.bucket("s3://images/limits").await;
        bucket.write("a", "image/png", Bytes::from_static(b"12345")).await.unwrap();
        assert_eq!(bucket.read("a", 5).await.unwrap().as_deref(), Some(b"12345".as_slice()));
        assert!(matches!(bucket.read("a", 4).await, Err(S3Error::TooLarge { limit_bytes: 4 })));
        assert_eq!(bucket.head("a").await.unwrap().map(|head| head.bytes), Some(5));
        bucket.remove("a").await.unwrap();
        bucket.remove("a").await.expect("what is gone may be removed again");
        assert_eq!(bucket.read("a", 5).await.unwrap(), None);
    }
}
