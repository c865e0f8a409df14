//! One file at its source, read from any of its bytes on. A connection that breaks is taken up where it broke, as often as it brings
//! something, and never for a file that has become another one meanwhile.

use std::time::Duration;

use bytes::Bytes;
use egress::header::{ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use egress::{Body, Client, Credentials, EgressError, HeaderMap, StatusCode, Url};
use tokio::time::timeout;

use super::ImportError;

/// Until an answer begins, and between two pieces of it.
const SILENCE: Duration = Duration::from_secs(60);
/// Attempts in a row that bring nothing.
const ATTEMPTS_LIMIT: u32 = 6;
/// Before the second attempt; it doubles from attempt to attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// For people: the path in its repository, or the URL without its query.
    pub(super) name: String,
    pub(super) url: Url,
    pub(super) credentials: Option<Credentials>,
    /// What its publisher says that its sha256 is.
    pub(super) sha256: Option<String>,
}

/// An answer whose head was read.
#[derive(Debug)]
struct Opened {
    /// Where its bytes begin.
    from: u64,
    /// Of the whole file.
    total: Option<u64>,
    etag: Option<HeaderValue>,
    file_name: Option<String>,
    body: Body,
}

impl Remote {
    /// Begins to read at the file's first byte.
    pub(super) async fn open<'a>(&'a self, client: &'a Client) -> Result<Reader<'a>, ImportError> {
        let mut attempts = 0;
        let opened = loop {
            match self.request(client, 0, None).await {
                Ok(opened) => break opened,
                Err(error) => pause(&mut attempts, error).await?,
            }
        };
        let total = opened.total.ok_or_else(|| ImportError::NoLength { name: self.name.clone() })?;
        let (etag, file_name) = (opened.etag.clone(), opened.file_name.clone());
        Ok(Reader { remote: self, client, opened: Some(opened), done: 0, total, etag, file_name, skip: 0, attempts: 0 })
    }

    /// The whole of a small file.
    pub(super) async fn read(&self, client: &Client, limit: u64) -> Result<Vec<u8>, ImportError> {
        let mut reader = self.open(client).await?;
        if reader.total > limit {
            let (name, bytes) = (self.name.clone(), reader.total);
            return Err(ImportError::TooLarge { name, bytes, limit, remedy: "; it is not what it should be" });
        }
        let mut file = Vec::new();
        while let Some(piece) = reader.next().await? {
            file.extend_from_slice(&piece);
        }
        Ok(file)
    }

    async fn request(&self, client: &Client, from: u64, same: Option<&HeaderValue>) -> Result<Opened, ImportError> {
        let mut headers = HeaderMap::new();
        // Compressed, a range would be one of something else.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // Digits and a dash always make a header.
        headers.extend(HeaderValue::from_str(&format!("bytes={from}-")).ok().map(|range| (RANGE, range)));
        headers.extend(same.map(|etag| (IF_RANGE, etag.clone())));
        let silent = || ImportError::Silent { name: self.name.clone(), seconds: SILENCE.as_secs() };
        let got = timeout(SILENCE, client.get(&self.url, &headers, self.credentials.as_ref())).await.map_err(|_| silent())?;
        let (_, response) = got.map_err(|source| ImportError::Reach { name: self.name.clone(), source })?;
        let header = |name| response.headers().get(name);
        let text = |name| header(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let (from, total) = match response.status() {
            StatusCode::OK => (0, text(CONTENT_LENGTH).and_then(|text| text.parse().ok())),
            StatusCode::PARTIAL_CONTENT => {
                let range = text(CONTENT_RANGE).and_then(content_range);
                let (begin, total) = range.ok_or_else(|| ImportError::Reach { name: self.name.clone(), source: EgressError::Broken })?;
                (begin, Some(total))
            }
            // No byte there: the file has exactly as many as were asked to be skipped.
            StatusCode::RANGE_NOT_SATISFIABLE if from == 0 => (0, Some(0)),
            status => return Err(ImportError::Status { name: self.name.clone(), status: status.as_u16() }),
        };
        // A weak one does not speak of bytes.
        let etag = header(ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")).cloned();
        let file_name = text(CONTENT_DISPOSITION).and_then(file_name).map(str::to_owned);
        Ok(Opened { from, total, etag, file_name, body: response.into_body() })
    }
}

/// Reads a file to its end, whatever becomes of connections.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    remote: &'a Remote,
    client: &'a Client,
    opened: Option<Opened>,
    done: u64,
    total: u64,
    etag: Option<HeaderValue>,
    /// The name that its server gives it.
    file_name: Option<String>,
    /// Bytes that come again, from a server that knows no ranges.
    skip: u64,
    attempts: u32,
}

impl Reader<'_> {
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// The next bytes; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ImportError> {
        while self.done < self.total {
            match self.piece().await {
                Ok(Some(piece)) => {
                    self.done += piece.len() as u64;
                    self.attempts = 0;
                    return Ok(Some(piece));
                }
                Ok(None) => {}
                Err(error) => {
                    self.opened = None;
                    let (name, attempts) = (self.remote.name.clone(), ATTEMPTS_LIMIT);
                    let given_up = ImportError::BrokenOff { name, attempts, done: self.done, total: self.total };
                    let is_final = error.is_permanent() || matches!(error, ImportError::Changed { .. });
                    let error = if is_final { error } else { given_up };
                    pause(&mut self.attempts, error).await?;
                }
            }
        }
        Ok(None)
    }

    /// Some bytes, or none where what came had come before.
    async fn piece(&mut self) -> Result<Option<Bytes>, ImportError> {
        let opened = match &mut self.opened {
            Some(opened) => opened,
            None => {
                let opened = self.remote.request(self.client, self.done, self.etag.as_ref()).await?;
                let is_other = opened.total.is_some_and(|total| total != self.total) || self.etag.is_some() && opened.etag != self.etag;
                if is_other || opened.from > self.done {
                    return Err(ImportError::Changed { name: self.remote.name.clone() });
                }
                self.skip = self.done - opened.from;
                self.opened.insert(opened)
            }
        };
        let name = || self.remote.name.clone();
        let silent = || ImportError::Silent { name: name(), seconds: SILENCE.as_secs() };
        let chunk = timeout(SILENCE, opened.body.chunk()).await.map_err(|_| silent())?;
        let broken = |source| ImportError::Reach { name: name(), source };
        let mut piece = chunk.map_err(broken)?.ok_or_else(|| broken(EgressError::Broken))?;
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        drop(piece.split_to(skipped as usize));
        piece.truncate(usize::try_from(self.total - self.done).unwrap_or(usize::MAX));
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// Waits before the next attempt, or ends with the error where another would not help.
async fn pause(attempts: &mut u32, error: ImportError) -> Result<(), ImportError> {
    *attempts += 1;
    if error.is_permanent() || matches!(error, ImportError::Changed { .. }) || *attempts >= ATTEMPTS_LIMIT {
        return Err(error);
    }
    tokio::time::sleep(PAUSE_FIRST * 2_u32.pow(*attempts - 1)).await;
    Ok(())
}

/// First byte and whole length of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, end) = range.split_once('-')?;
    let (begin, end, total) = (begin.parse().ok()?, end.parse::<u64>().ok()?, total.parse().ok()?);
    (begin <= end && end < total).then_some((begin, total))
}

/// The name in `attachment; filename="model.safetensors"`.
fn file_name(text: &str) -> Option<&str> {
    let name = text.split(';').find_map(|part| part.trim().strip_prefix("filename="))?;
    Some(name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_names_are_read_as_servers_write_them() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 10)));
        for text in ["", "bytes */10", "bytes 5-9/*", "bytes 9-5/10", "bytes 5-10/10", "bytes 5-9"] {
            assert_eq!(content_range(text), None, "{text}");
        }
        assert_eq!(file_name("attachment; filename=\"a b.safetensors\"; x=1"), Some("a b.safetensors"));
        assert_eq!(file_name("inline"), None);
    }
}
