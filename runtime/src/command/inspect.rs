//! `inspect`: what a checkpoint is, its tensors, and whether it would load.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diffusion::model::Inspection;

/// Tell what a model folder is, its tensors, and whether it would load. Exit code 1 if it would not.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Folder in diffusers' layout.
    #[arg(long, env = "EMULSION_MODEL")]
    model: PathBuf,
    /// Print JSON for programs instead of text for people.
    #[arg(long, env = "EMULSION_JSON")]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let inspection = Inspection::of(&self.model);
        let text = if self.json { serde_json::to_string_pretty(&inspection)? + "\n" } else { describe(&inspection) };
        // A reader that closes early, such as `head`, has seen what it wanted.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(if inspection.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn describe(inspection: &Inspection) -> String {
    let mut lines =
        vec![format!("family  {}", inspection.family.as_deref().unwrap_or("not known")), format!("bytes   {}", inspection.bytes)];
    lines.extend(inspection.digest.as_ref().map(|digest| format!("sha256  {digest}")));
    for component in &inspection.components {
        lines.push(format!("\n{}  {} tensors, {} bytes", component.name, component.tensors.len(), component.bytes));
        lines.extend(component.tensors.iter().map(|tensor| format!("  {:<5} {:?}  {}", tensor.dtype, tensor.shape, tensor.name)));
    }
    lines.push(String::new());
    match inspection.problems.as_slice() {
        [] => lines.push("It would load.".to_owned()),
        problems => {
            lines.push("It would not load:".to_owned());
            lines.extend(problems.iter().map(|problem| format!("  {problem}")));
        }
    }
    lines.join("\n") + "\n"
}
