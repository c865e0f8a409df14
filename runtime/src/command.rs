//! The command line. Each subcommand is a struct of what it takes and a `run`.

mod adapter;
mod compute;
mod generate;
mod import;
mod inspect;
mod logging;
mod model_files;
mod parent;
mod rounds;
mod safety_check;
mod serve;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use serve::Serve;

/// Makes images with diffusion models: as a replica for a router, or for a person at the command line.
#[derive(Debug, Parser)]
#[command(name = "emulsion-runtime", version)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Generate(Box<generate::Generate>),
    Import(Box<import::Import>),
    Inspect(inspect::Inspect),
    SafetyCheck(safety_check::SafetyCheck),
    Trace(trace::Trace),
}

impl CommandLine {
    /// Runs what was asked for.
    ///
    /// # Errors
    /// Whatever kept it from succeeding, with its causes.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Generate(generate) => generate.run(),
            Command::Import(import) => import.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::SafetyCheck(check) => check.run(),
            Command::Trace(trace) => trace.run(),
        }
    }
}
