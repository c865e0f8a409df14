//! Asks a router whether it serves, for probes that have no HTTP client at hand, such as `helm test`.

use std::time::Duration;

use reqwest::{Client, StatusCode};

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{url} cannot be reached: {source}")]
    Reach { url: String, source: reqwest::Error },
    #[error("{url} is not ready: it answered {status}")]
    NotReady { url: String, status: StatusCode },
}

/// Ends well if the router at `url` is ready.
pub async fn check(url: &str) -> Result<(), CheckError> {
    let url = format!("{url}/readyz");
    let reached = |source| CheckError::Reach { url: url.clone(), source };
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build().map_err(reached)?;
    let status = client.get(&url).send().await.map_err(reached)?.status();
    if status.is_success() { Ok(()) } else { Err(CheckError::NotReady { url, status }) }
}
