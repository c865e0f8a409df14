//! The replica's executable: reads the command line and runs what it says.

use std::process::ExitCode;

use clap::Parser;
use runtime::command::CommandLine;

fn main() -> ExitCode {
    match CommandLine::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("emulsion-runtime: {error:#}");
            ExitCode::FAILURE
        }
    }
}
