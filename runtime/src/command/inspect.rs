//! `inspect`: what a checkpoint or an adapter is, its tensors, and whether it would load.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use diffusion::adapter::{AdapterFile, AdapterInspection};
use diffusion::model::Inspection;

/// Tell what a model folder or an adapter's file is, and whether it would load. Exit code 1 if it would not.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Folder in diffusers' layout, or an adapter's file.
    #[arg(long, env = "EMULSION_MODEL")]
    model: PathBuf,
    /// Print JSON for programs instead of text for people.
    #[arg(long, env = "EMULSION_JSON")]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.model.is_file() {
            return self.inspect_adapter();
        }
        let inspection = Inspection::of(&self.model);
        let text = if self.json { serde_json::to_string_pretty(&inspection)? + "\n" } else { describe(&inspection) };
        // A reader that closes early, such as `head`, has seen what it wanted.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(if inspection.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn inspect_adapter(&self) -> anyhow::Result<ExitCode> {
        let inspection = AdapterFile::open(&self.model)?.inspect()?;
        let text = if self.json { serde_json::to_string_pretty(&inspection)? + "\n" } else { describe_adapter(&inspection) };
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

fn describe_adapter(inspection: &AdapterInspection) -> String {
    let mut lines = vec![
        format!("adapter for {}", inspection.family.unwrap_or("a family that its names do not tell")),
        format!("bytes   {}", inspection.bytes),
        format!("sha256  {}", inspection.digest),
        format!("\n{} layers", inspection.modules.len()),
    ];
    lines.extend(inspection.modules.iter().map(|module| {
        let rank = module.rank.map_or(String::new(), |rank| format!(" of rank {rank}"));
        format!("  {:?}{}{rank}  {}", module.kind, if module.dora { " with DoRA" } else { "" }, module.name)
    }));
    lines.join("\n") + "\n"
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
