//! `emulsion-operator`: parse the command line and run it.

use std::io::{IsTerminal, stderr};

use clap::Parser;
use operator::command::{Arguments, execute};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("EMULSION_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    execute(Arguments::parse()).await
}
