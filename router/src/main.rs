//! The router's executable: reads the command line and runs what it says.

use std::process::ExitCode;

use clap::Parser;
use router::command::CommandLine;

fn main() -> ExitCode {
    match CommandLine::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emulsion-router: {error:#}");
            ExitCode::FAILURE
        }
    }
}
