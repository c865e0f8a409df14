//! What a Hugging Face hub says of a repository: its files at one commit, so that a push in the middle of an import mixes nothing.

use egress::header::LINK;
use egress::{Client, HeaderMap, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ImportError;
use super::catalogue::{Folder, Found, Places, below, is_plain_path};
use super::remote::Remote;

/// Where nobody names a revision.
const DEFAULT_REVISION: &str = "main";
/// Bytes of one answer.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// Pages of one listing.
const PAGES_LIMIT: usize = 20;
/// Files of one repository.
const FILES_LIMIT: usize = 10_000;

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    lfs: Option<Lfs>,
}

/// Of a file whose bytes are elsewhere.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
}

pub(super) async fn find(
    client: &Client,
    places: &Places,
    repository: &str,
    revision: Option<&str>,
    file: Option<&str>,
) -> Result<Found, ImportError> {
    let hub = Hub { client, places, repository };
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    let (Revision { sha }, _) = hub.ask(below(&places.hub, &format!("api/models/{repository}/revision/{revision}"))).await?;
    if sha.is_empty() || !sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(hub.misunderstood("it names no commit"));
    }
    let folder = hub.list(&sha).await?;
    match file {
        None => Ok(Found::Folder(folder)),
        Some(file) => folder.get(file).cloned().map(Found::File).ok_or_else(|| {
            let reason = format!("{repository} has no file {file} at {revision}; it has {}", some_weights(&folder));
            ImportError::Refused { reason }
        }),
    }
}

/// Names of weights, for messages.
fn some_weights(folder: &Folder) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&str> = folder.keys().map(String::as_str).filter(|name| name.ends_with(".safetensors")).take(SHOWN).collect();
    if names.is_empty() { "no .safetensors at all".to_owned() } else { names.join(", ") }
}

struct Hub<'a> {
    client: &'a Client,
    places: &'a Places,
    repository: &'a str,
}

impl Hub<'_> {
    async fn list(&self, commit: &str) -> Result<Folder, ImportError> {
        let repository = self.repository;
        let mut folder = Folder::new();
        let mut next = Some(below(&self.places.hub, &format!("api/models/{repository}/tree/{commit}?recursive=true")));
        for _ in 0..PAGES_LIMIT {
            let Some(url) = next else { return Ok(folder) };
            let (entries, headers) = self.ask::<Vec<Entry>>(url.clone()).await?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file" && is_plain_path(&entry.path)) {
                let url = below(&self.places.hub, &format!("{repository}/resolve/{commit}/{}", entry.path));
                let name = format!("{repository}/{}", entry.path);
                let sha256 = entry.lfs.map(|lfs| lfs.oid.trim_start_matches("sha256:").to_ascii_lowercase());
                folder.insert(entry.path, Remote { name, url, credentials: self.places.hub_credentials.clone(), sha256 });
            }
            if folder.len() > FILES_LIMIT {
                return Err(self.misunderstood("it has too many files; name one of them"));
            }
            // Elsewhere it would have the credentials.
            next = next_page(&url, &headers).filter(|next| next.origin() == url.origin());
        }
        Err(self.misunderstood("it does not end; name one of its files"))
    }

    async fn ask<T: DeserializeOwned>(&self, url: Url) -> Result<(T, HeaderMap), ImportError> {
        let name = || self.repository.to_owned();
        let reach = |source| ImportError::Reach { name: name(), source };
        let credentials = self.places.hub_credentials.as_ref();
        let (_, response) = self.client.get(&url, &HeaderMap::new(), credentials).await.map_err(reach)?;
        if response.status() != StatusCode::OK {
            return Err(ImportError::Status { name: name(), status: response.status().as_u16() });
        }
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(piece) = body.chunk().await.map_err(reach)? {
            text.extend_from_slice(&piece);
            if text.len() > ANSWER_LIMIT_BYTES {
                return Err(self.misunderstood("it is too long"));
            }
        }
        let answer = serde_json::from_slice(&text).map_err(|error| self.misunderstood(&error.to_string()))?;
        Ok((answer, headers))
    }

    fn misunderstood(&self, reason: &str) -> ImportError {
        ImportError::Listing { name: self.repository.to_owned(), reason: reason.to_owned() }
    }
}

/// As RFC 8288 has it: `<URL>; rel="next"`.
fn next_page(here: &Url, headers: &HeaderMap) -> Option<Url> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let target = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    here.join(target.trim().strip_prefix('<')?.split_once('>')?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_followed_from_page_to_page() {
        let here = Url::parse("https://hub.example/api?page=1").unwrap();
        let headers = |link: &str| HeaderMap::from_iter([(LINK, link.parse().unwrap())]);
        let next = next_page(&here, &headers("</first>; rel=\"first\", <https://hub.example/api?page=2>; rel=\"next\""));
        assert_eq!(next, Some(Url::parse("https://hub.example/api?page=2").unwrap()));
        assert_eq!(next_page(&here, &headers("</first>; rel=\"first\"")), None);
        assert_eq!(next_page(&here, &HeaderMap::new()), None);
    }
}
