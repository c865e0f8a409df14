//! What the house does for a caller, in no dialect: know them, take a request, tell how it stands, cancel it. It knows neither HTTP
//! statuses nor bodies; the edge and the dialects are its only users.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;

use crate::accounts::ApiKey;
use crate::generation::{Generation, ModelListing, Progress, Submission};
use crate::outputs::OutputStore;
use crate::refusal::Refusal;
use crate::store::{Caller, Usage};

/// What an administrator may set about answering.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address callers reach, without a trailing slash. `None`: taken from each call's Host header.
    pub public_url: Option<String>,
    /// How long a synchronous call waits for its images before it is answered with an id.
    pub sync_wait: Duration,
    /// How long a fetch waits for its images.
    pub fetch_wait: Duration,
    /// The largest body a call may have.
    pub body_limit_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            public_url: None,
            sync_wait: Duration::from_secs(60),
            fetch_wait: Duration::from_secs(25),
            body_limit_bytes: 1024 * 1024,
            body_timeout: Duration::from_secs(30),
        }
    }
}

/// The whole house behind one handle; clones share it.
#[derive(Clone, Debug)]
pub struct Service {
    settings: Arc<Settings>,
    outputs: Arc<dyn OutputStore>,
}

impl Service {
    /// Whose key this is. Refuses with `KeyMissing` or `KeyInvalid`.
    pub async fn authenticate(&self, key: Option<&ApiKey>) -> Result<Caller, Refusal> {
        key.ok_or(Refusal::KeyMissing)?;
        Err(Refusal::Internal)
    }

    /// The models this caller may name, by name.
    pub fn models(&self, _caller: &Caller) -> Vec<ModelListing> {
        Vec::new()
    }

    /// Takes a request: validates it, fills in what it leaves open, admits it under the caller's plan, journals it and starts on it.
    pub async fn submit(&self, _caller: &Caller, _submission: Submission) -> Result<Ticket, Refusal> {
        Err(Refusal::Internal)
    }

    /// How the caller's request stands: at once when it has finished, else when it finishes or `at_most` has passed.
    pub async fn wait(&self, _caller: &Caller, public_id: i32, _at_most: Duration) -> Result<Generation, Refusal> {
        Err(Refusal::GenerationUnknown { id: public_id.to_string() })
    }

    /// Everything that happens to a request from its submission on; ends after `Changed` with a finished state.
    pub fn watch(&self, _ticket: &Ticket) -> impl Stream<Item = Progress> + Send + 'static {
        futures::stream::empty()
    }

    /// Stops the caller's request at its next step, unbilled. One that has finished stays as it is.
    pub async fn cancel(&self, _caller: &Caller, public_id: i32) -> Result<Generation, Refusal> {
        Err(Refusal::GenerationUnknown { id: public_id.to_string() })
    }

    pub async fn usage(&self, _caller: &Caller) -> Result<Usage, Refusal> {
        Err(Refusal::Internal)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether calls can be served; no replica needs to run for that.
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Prometheus' text format.
    pub fn render_metrics(&self) -> String {
        String::new()
    }

    pub fn outputs(&self) -> &Arc<dyn OutputStore> {
        &self.outputs
    }
}

/// A request that was accepted. While its caller waits (`Mode::Attached`), dropping the ticket before `detach` or before the request
/// has finished cancels it, unbilled, at the next step.
#[derive(Debug)]
pub struct Ticket {
    /// As it was when it was accepted.
    pub generation: Generation,
}

impl Ticket {
    /// From here on the request goes on by itself: its caller is told an id. Durable when it returns, so answer after it.
    pub async fn detach(self) -> Generation {
        self.generation
    }
}
