//! Which files a source has: one, or those of a repository. Nothing is chosen and nothing of them is read here.

use std::collections::BTreeMap;
use std::str::FromStr;

use egress::{Client, Credentials, Url};

use super::remote::Remote;
use super::{ImportError, Order, S3Place, hub, s3};

/// Where the weights are, as `spec.source.uri` spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceUri {
    Https(Url),
    /// A repository of a Hugging Face hub, or one file of it.
    Hub {
        repository: String,
        revision: Option<String>,
        file: Option<String>,
    },
    /// A model version of Civitai.
    Civitai {
        version: u64,
    },
    /// An object of a bucket; a folder of objects where the key ends with a slash or is empty.
    S3 {
        bucket: String,
        key: String,
    },
}

impl FromStr for SourceUri {
    type Err = ImportError;

    fn from_str(uri: &str) -> Result<Self, ImportError> {
        // A query may hold a secret.
        let unknown = || ImportError::Source { uri: uri.split(['?', '#']).next().unwrap_or_default().to_owned() };
        if let Some(rest) = uri.strip_prefix("hf://") {
            return hub_uri(rest).ok_or_else(unknown);
        }
        if let Some(version) = uri.strip_prefix("civitai:") {
            return version.parse().map(|version| Self::Civitai { version }).map_err(|_| unknown());
        }
        if let Some(rest) = uri.strip_prefix("s3://") {
            return s3_uri(rest).ok_or_else(unknown);
        }
        let url = uri.starts_with("https://").then(|| Url::parse(uri).ok()).flatten();
        // One in the URL would stand in lists of objects and in logs.
        let url = url.filter(|url| url.username().is_empty() && url.password().is_none());
        url.map(Self::Https).ok_or_else(unknown)
    }
}

/// `OWNER/NAME[@REVISION][/FILE]`.
fn hub_uri(rest: &str) -> Option<SourceUri> {
    let is_plain = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let mut parts = rest.splitn(3, '/');
    let (owner, name) = (parts.next()?, parts.next()?);
    let (name, revision) = name.split_once('@').map_or((name, None), |(name, revision)| (name, Some(revision)));
    // A branch may hold slashes, which would be the file's: a commit or a tag can always be named.
    let file = parts.next().filter(|file| !file.is_empty());
    let is_sound =
        is_plain(owner) && is_plain(name) && revision.is_none_or(is_plain) && file.is_none_or(|file| file.split('/').all(is_plain));
    is_sound.then(|| SourceUri::Hub {
        repository: format!("{owner}/{name}"),
        revision: revision.map(str::to_owned),
        file: file.map(str::to_owned),
    })
}

/// `BUCKET/KEY`, `BUCKET/FOLDER/` or `BUCKET`. The key is taken as it is written; one that a URL would change on its way is refused.
fn s3_uri(rest: &str) -> Option<SourceUri> {
    const BUCKET_CHARACTERS: std::ops::RangeInclusive<usize> = 3..=63;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = BUCKET_CHARACTERS.contains(&bucket.len())
        && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !bucket.starts_with('.')
        && !bucket.contains("..");
    let is_part =
        |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\".contains(&byte));
    let parts = key.strip_suffix('/').unwrap_or(key);
    let is_key = key.is_empty() || parts.split('/').all(is_part);
    (is_bucket && is_key).then(|| SourceUri::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
}

/// Files with other names are none that a model needs.
pub(super) fn is_plain_path(path: &str) -> bool {
    let is_plain = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
    };
    path.len() <= 255 && path.split('/').all(is_plain)
}

/// Where publishers are, and what is said to them. Secrets are never printed.
#[derive(Clone, Debug)]
pub struct Places {
    /// A Hugging Face hub.
    pub hub: Url,
    pub hub_credentials: Option<Credentials>,
    pub civitai: Url,
    pub civitai_credentials: Option<Credentials>,
    /// For https:// sources.
    pub https_credentials: Option<Credentials>,
    pub s3: S3Place,
}

/// Files by their paths, as their publisher lists them.
pub(super) type Folder = BTreeMap<String, Remote>;

/// What a URI leads to.
#[derive(Debug)]
pub(super) enum Found {
    File(Remote),
    Folder(Folder),
}

/// What there is of a source.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) model: Found,
    pub(super) config: Option<Folder>,
}

pub(super) async fn open(client: &Client, order: &Order) -> Result<Catalogue, ImportError> {
    let model = find(client, &order.places, &order.source).await?;
    let config = match &order.config {
        None => None,
        Some(config) => match find(client, &order.places, config).await? {
            Found::Folder(folder) => Some(folder),
            Found::File(file) => {
                let reason = format!("the source's config {} is a file; name a repository in diffusers' layout", file.name);
                return Err(ImportError::Refused { reason });
            }
        },
    };
    Ok(Catalogue { model, config })
}

async fn find(client: &Client, places: &Places, source: &SourceUri) -> Result<Found, ImportError> {
    match source {
        SourceUri::Https(url) => {
            let mut shown = url.clone();
            // A query may hold a secret.
            shown.set_query(None);
            shown.set_fragment(None);
            Ok(Found::File(Remote { name: shown.into(), url: url.clone(), credentials: places.https_credentials.clone(), sha256: None }))
        }
        SourceUri::Hub { repository, revision, file } => hub::find(client, places, repository, revision.as_deref(), file.as_deref()).await,
        SourceUri::Civitai { version } => {
            let url = below(&places.civitai, &format!("api/download/models/{version}?type=Model&format=SafeTensor"));
            let credentials = places.civitai_credentials.clone();
            Ok(Found::File(Remote { name: format!("civitai:{version}"), url, credentials, sha256: None }))
        }
        SourceUri::S3 { bucket, key } => s3::find(client, &places.s3, bucket, key).await,
    }
}

/// A path below an address, whatever path that itself has.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let joined = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    // The base is a URL, and the paths are plain.
    Url::parse(&joined).unwrap_or_else(|_| base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repository: &str, revision: Option<&str>, file: Option<&str>) -> SourceUri {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        SourceUri::Hub { repository: repository.to_owned(), revision: owned(revision), file: owned(file) }
    }

    fn s3(bucket: &str, key: &str) -> SourceUri {
        SourceUri::S3 { bucket: bucket.to_owned(), key: key.to_owned() }
    }

    #[test]
    fn sources_are_read_as_manifests_spell_them() {
        for (uri, source) in [
            ("hf://acme/sdxl", hub("acme/sdxl", None, None)),
            ("hf://acme/sdxl@v1.0", hub("acme/sdxl", Some("v1.0"), None)),
            ("hf://acme/sdxl/a/b.safetensors", hub("acme/sdxl", None, Some("a/b.safetensors"))),
            ("hf://acme/sdxl@main/b.safetensors", hub("acme/sdxl", Some("main"), Some("b.safetensors"))),
            ("civitai:12345", SourceUri::Civitai { version: 12345 }),
            ("s3://models/a+b/c%20.safetensors", s3("models", "a+b/c%20.safetensors")),
            ("s3://models/sdxl/", s3("models", "sdxl/")),
            ("s3://models", s3("models", "")),
            ("s3://models/", s3("models", "")),
        ] {
            assert_eq!(uri.parse::<SourceUri>().unwrap(), source, "{uri}");
        }
        assert!(matches!("https://a.example/m.safetensors?x=1".parse(), Ok(SourceUri::Https(_))));
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for uri in [
            "",
            "hf://",
            "hf://acme",
            "hf://acme/",
            "hf://../x",
            "hf://acme/x/../y",
            "hf://acme/x@a b",
            "civitai:",
            "civitai:x",
            "http://a.example/m",
            "ftp://a/b",
            "https://user:password@a.example/m",
            "https://",
            "s3://",
            "s3:///key",
            "s3://models//key",
            "s3://models/../other/key",
            "s3://models/key?versionId=1",
            "s3://user@models/key",
        ] {
            let error = uri.parse::<SourceUri>().unwrap_err();
            assert!(error.is_permanent() && matches!(error, ImportError::Source { .. }), "{uri}");
        }
    }
}
