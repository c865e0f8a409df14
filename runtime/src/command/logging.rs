//! Where the log goes: standard error, so that standard output stays for what was asked for.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// `EMULSION_LOG` chooses what is logged, in `tracing`'s filter syntax.
pub(super) fn start(default_filter: &str) {
    let filter = EnvFilter::try_from_env("EMULSION_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    // A router reads these lines: colours are for terminals alone. A second start, in tests, leaves the first in place.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
