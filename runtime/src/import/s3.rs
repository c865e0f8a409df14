//! Objects of an S3 bucket: one, or those below a folder. They are read by signed GETs over the guarded client, so that what holds for every
//! other source holds here, too. Without credentials nothing is signed: public buckets are read so.

use std::time::Duration;

use bytes::Bytes;
use egress::header::{HeaderValue, RANGE};
use egress::{Client, EgressError, Request, StatusCode, Url};
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tokio::time::timeout;

use super::ImportError;
use super::catalogue::{Folder, Found, is_plain_path};
use super::remote::Remote;

/// One question about the bucket.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of one answer.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// Pages of one listing, of a thousand objects each.
const PAGES_LIMIT: usize = 20;
/// Longest time for which S3 takes a signature.
const SIGNATURE_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Characters of the store's own words that are repeated.
const MESSAGE_LIMIT: usize = 300;
/// Tells where a bucket is, also in refusals.
const REGION_HEADER: &str = "x-amz-bucket-region";

/// Where buckets are, and what is said to them.
#[derive(Clone, Debug)]
pub struct S3Place {
    /// Of a store that is not Amazon's; it has the bucket in the path.
    pub endpoint: Option<Url>,
    pub region: String,
    /// Never printed with their secret.
    pub credentials: Option<Credentials>,
    /// How long a signature must be good for.
    pub lifetime: Duration,
}

/// A bucket in a region.
struct Store<'a> {
    client: &'a Client,
    place: &'a S3Place,
    bucket: Bucket,
}

/// What the store refused, and where it says that the bucket is.
struct Refused {
    error: ImportError,
    region: Option<String>,
}

impl From<ImportError> for Refused {
    fn from(error: ImportError) -> Self {
        Self { error, region: None }
    }
}

/// The object `key`, or the folder where that ends with a slash or is empty.
pub(super) async fn find(client: &Client, place: &S3Place, bucket: &str, key: &str) -> Result<Found, ImportError> {
    let look = async |region: &str| {
        let bucket = opened(place, bucket, region)?;
        let store = Store { client, place, bucket };
        if key.is_empty() || key.ends_with('/') {
            store.folder(key).await.map(Found::Folder)
        } else {
            store.file(key).await.map(Found::File)
        }
    };
    match look(&place.region).await {
        Err(Refused { region: Some(region), .. }) if place.endpoint.is_none() && region != place.region => look(&region).await,
        found => found,
    }
    .map_err(|refused| refused.error)
}

fn opened(place: &S3Place, bucket: &str, region: &str) -> Result<Bucket, ImportError> {
    let reason = || format!("AWS_REGION {region:?} and AWS_ENDPOINT_URL do not make an address of the bucket {bucket}");
    let is_region = !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let own = Url::parse(&format!("https://s3.{region}.{domain}")).ok().filter(|_| is_region);
    // A certificate of Amazon's is for one label before the region's.
    let is_label = bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let style = if is_label && place.endpoint.is_none() { UrlStyle::VirtualHost } else { UrlStyle::Path };
    let address = place.endpoint.clone().or(own).ok_or_else(|| ImportError::Refused { reason: reason() })?;
    Bucket::new(address, style, bucket.to_owned(), region.to_owned()).map_err(|_| ImportError::Refused { reason: reason() })
}

impl Store<'_> {
    async fn file(&self, key: &str) -> Result<Remote, Refused> {
        let remote = self.remote(key);
        match self.ask(&remote.name, &remote.url, Wanted::FirstByte).await? {
            // An empty object has no first byte.
            Answer { status: StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, .. } => Ok(remote),
            answer => Err(self.refused(remote.name, &answer)),
        }
    }

    async fn folder(&self, prefix: &str) -> Result<Folder, Refused> {
        let name = self.name(prefix);
        let misunderstood = |reason: String| ImportError::Listing { name: name.clone(), reason };
        let mut folder = Folder::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_LIMIT {
            let mut list = self.bucket.list_objects_v2(self.place.credentials.as_ref());
            list.with_prefix(prefix);
            if let Some(token) = &next {
                list.with_continuation_token(token);
            }
            let answer = self.ask(&name, &list.sign(self.lifetime()), Wanted::Listing).await?;
            if answer.status != StatusCode::OK {
                return Err(self.refused(name, &answer));
            }
            let page = ListObjectsV2::parse_response(&answer.text()).map_err(|error| misunderstood(error.to_string()))?;
            for object in page.contents {
                if let Some(path) = object.key.strip_prefix(prefix).filter(|path| is_plain_path(path)) {
                    folder.insert(path.to_owned(), self.remote(&object.key));
                }
            }
            next = page.next_continuation_token;
            if next.is_none() {
                let reason = || format!("there is no object in {name} that a model could need");
                return if folder.is_empty() { Err(ImportError::Refused { reason: reason() }.into()) } else { Ok(folder) };
            }
        }
        Err(misunderstood("it has too many objects; name a folder with fewer, or one file".to_owned()).into())
    }

    fn remote(&self, key: &str) -> Remote {
        let url = self.bucket.get_object(self.place.credentials.as_ref(), key).sign(self.lifetime());
        Remote { name: self.name(key), url, credentials: None, sha256: None }
    }

    fn name(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket.name())
    }

    fn lifetime(&self) -> Duration {
        self.place.lifetime.min(SIGNATURE_LIMIT)
    }

    /// Follows no redirect: where another region has the bucket, the signature must be another one, too.
    async fn ask(&self, name: &str, url: &Url, wanted: Wanted) -> Result<Answer, ImportError> {
        let asking = async {
            let mut request = Request::new(Bytes::new());
            if wanted == Wanted::FirstByte {
                request.headers_mut().insert(RANGE, HeaderValue::from_static("bytes=0-0"));
            }
            let response = self.client.send(url, request).await?;
            let status = response.status();
            let region = response.headers().get(REGION_HEADER).and_then(|region| region.to_str().ok()).map(str::to_owned);
            let mut answer = Answer { status, region, body: Vec::new() };
            let mut body = response.into_body();
            // A store that knows no ranges sends all of a file, which nobody wants yet.
            let is_read = wanted == Wanted::Listing || !status.is_success();
            while is_read && let Some(piece) = body.chunk().await? {
                answer.body.extend_from_slice(&piece);
                if answer.body.len() > ANSWER_LIMIT_BYTES {
                    return Err(EgressError::Broken);
                }
            }
            Ok(answer)
        };
        let silent = || ImportError::Silent { name: name.to_owned(), seconds: ANSWER_TIMEOUT.as_secs() };
        let answered = timeout(ANSWER_TIMEOUT, asking).await.map_err(|_| silent())?;
        answered.map_err(|source| ImportError::Reach { name: name.to_owned(), source })
    }

    fn refused(&self, name: String, answer: &Answer) -> Refused {
        let text = answer.text();
        let said =
            |element: &str| within(&text, element).map(|text| text.chars().filter(|char| !char.is_control()).take(MESSAGE_LIMIT).collect());
        let (code, message): (String, String) = (said("Code").unwrap_or_default(), said("Message").unwrap_or_default());
        let reason = [code.as_str(), message.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
        let region = answer.region.clone().or_else(|| said("Region"));
        let hint = hint(&code, &message, self.place.credentials.is_some());
        Refused { error: ImportError::StoreSource { name, status: answer.status.as_u16(), reason, hint }, region }
    }
}

/// Of an answer.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Listing,
    /// Whether there is a file that may be read.
    FirstByte,
}

struct Answer {
    status: StatusCode,
    region: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What stands in the first element of a name that has no children: an error of S3 is a handful of those.
fn within<'a>(xml: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{element}>"))?;
    rest.split_once('<').map(|(text, _)| text)
}

/// What to do about a refusal.
fn hint(code: &str, message: &str, has_credentials: bool) -> &'static str {
    // Of a signature in a URL stores say it so.
    let is_off = code == "RequestTimeTooSkewed" || message.contains("expired") || message.contains("not yet valid");
    match code {
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => "; AWS_SESSION_TOKEN of spec.source.secretRef is not good any more",
        _ if is_off => "; the clock of this machine or that of the store is wrong",
        "NoSuchBucket" => "; AWS_REGION and AWS_ENDPOINT_URL of spec.source.secretRef say where the bucket is",
        "NoSuchKey" => "; the uri of a folder ends with a slash: s3://BUCKET/FOLDER/",
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
            "; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of spec.source.secretRef are not those of the bucket's store"
        }
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" => {
            "; the bucket is in another region: AWS_REGION of spec.source.secretRef names it"
        }
        "AccessDenied" | "AllAccessDisabled" if has_credentials => {
            "; the credentials of spec.source.secretRef must allow s3:GetObject, and for a folder s3:ListBucket"
        }
        "AccessDenied" | "AllAccessDisabled" => {
            "; it is not public: spec.source.secretRef names a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(endpoint: Option<&str>, region: &str) -> S3Place {
        let endpoint = endpoint.map(|url| url.parse().unwrap());
        let credentials = Some(Credentials::new("id", "the-secret-key"));
        S3Place { endpoint, region: region.to_owned(), credentials, lifetime: Duration::from_secs(60) }
    }

    #[test]
    fn buckets_are_where_amazon_and_others_have_them() {
        let at = |place: &S3Place, bucket: &str| opened(place, bucket, &place.region).map(|bucket| bucket.base_url().to_string());
        assert_eq!(at(&place(None, "eu-west-1"), "models").unwrap(), "https://models.s3.eu-west-1.amazonaws.com/");
        assert_eq!(at(&place(None, "eu-west-1"), "my.models").unwrap(), "https://s3.eu-west-1.amazonaws.com/my.models/");
        assert_eq!(at(&place(None, "cn-north-1"), "models").unwrap(), "https://models.s3.cn-north-1.amazonaws.com.cn/");
        assert_eq!(at(&place(Some("http://minio:9000"), "x"), "models").unwrap(), "http://minio:9000/models/");
        for region in ["", "evil.example/", "a@b"] {
            assert!(at(&place(None, region), "models").is_err(), "{region}");
        }
        assert!(!format!("{:?}", place(None, "x")).contains("the-secret-key"));
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (code, message, has_credentials, word) in [
            ("NoSuchBucket", "", true, "AWS_REGION"),
            ("NoSuchKey", "", true, "ends with a slash"),
            ("AccessDenied", "Access Denied", true, "s3:GetObject"),
            ("AccessDenied", "Access Denied", false, "not public"),
            ("AccessDenied", "Request has expired", true, "clock"),
            ("RequestTimeTooSkewed", "", true, "clock"),
            ("ExpiredToken", "The provided token has expired.", true, "AWS_SESSION_TOKEN"),
            ("SlowDown", "", true, ""),
        ] {
            assert!(hint(code, message, has_credentials).contains(word), "{code}");
        }
        let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>";
        assert_eq!((within(xml, "Code"), within(xml, "Region")), (Some("NoSuchKey"), None));
    }
}
