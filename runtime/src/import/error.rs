//! Why an import ended without its weights: what was wrong and what to do, without secrets and without this machine's paths.

use egress::EgressError;

/// Statuses that mean: show who you are.
const WANTS_CREDENTIALS: [u16; 2] = [401, 403];

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(
        "the source {uri:?} is none that is imported: https://…, hf://OWNER/NAME[@REVISION][/FILE], s3://BUCKET/KEY, s3://BUCKET/FOLDER/ or civitai:VERSION"
    )]
    Source { uri: String },
    #[error("{name} {source}")]
    Reach { name: String, source: EgressError },
    #[error("{name} did not come: the server said nothing for {seconds} s")]
    Silent { name: String, seconds: u64 },
    #[error("{name} cannot be fetched: the server answered {status}{}", hint(*status))]
    Status { name: String, status: u16 },
    #[error("{name} cannot be read: the store answered {status} {reason}{hint}")]
    StoreSource { name: String, status: u16, reason: String, hint: &'static str },
    #[error("{name} broke off {attempts} times in a row without a byte; it stands at {done} of {total} bytes")]
    BrokenOff { name: String, attempts: u32, done: u64, total: u64 },
    #[error("{name} changed while it was fetched; it is fetched anew")]
    Changed { name: String },
    #[error("{name}: the server does not say how large it is, so that it cannot be checked before it is fetched")]
    NoLength { name: String },
    #[error("{name} has {bytes} bytes; at most {limit} are taken{remedy}")]
    TooLarge { name: String, bytes: u64, limit: u64, remedy: &'static str },
    #[error("the listing of {name} is not understood: {reason}")]
    Listing { name: String, reason: String },
    #[error("{reason}")]
    Refused { reason: String },
    #[error("the sha256 of {name} is {found}, not the {expected} that {whose}")]
    OtherDigest { name: String, found: String, expected: String, whose: &'static str },
    #[error("the import took longer than {seconds} s")]
    Deadline { seconds: u64 },
    #[error("the files in work cannot be written: {0}")]
    Scratch(#[source] std::io::Error),
    #[error("the router {0}")]
    Router(#[source] EgressError),
    #[error("the router refused the import ({status}): {message}")]
    RouterRefused { status: u16, message: String },
    #[error("the content store did not take a chunk ({status}): {message}")]
    StoreRefused { status: u16, message: String },
}

impl ImportError {
    /// Whether trying again with the same declaration leads to the same end.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Status { status, .. } | Self::StoreSource { status, .. } => {
                (300..500).contains(status) && !matches!(status, 408 | 425 | 429)
            }
            Self::Reach { source, .. } => {
                matches!(source, EgressError::Url(_) | EgressError::NotPublic | EgressError::Redirects | EgressError::Downgrade)
            }
            Self::Source { .. }
            | Self::NoLength { .. }
            | Self::TooLarge { .. }
            | Self::Listing { .. }
            | Self::Refused { .. }
            | Self::OtherDigest { .. } => true,
            Self::Silent { .. }
            | Self::BrokenOff { .. }
            | Self::Changed { .. }
            | Self::Deadline { .. }
            | Self::Scratch(_)
            | Self::Router(_)
            | Self::RouterRefused { .. }
            | Self::StoreRefused { .. } => false,
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        status if WANTS_CREDENTIALS.contains(&status) => {
            "; it wants credentials, or others: spec.source.secretRef names a Secret with them (docs/imports.md says with which keys)"
        }
        404 | 410 => "; there is no such file, or it is hidden from who has no credentials",
        429 => "; it wants fewer questions",
        _ => "",
    }
}
