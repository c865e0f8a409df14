//! `inspect`: what a checkpoint or an adapter is, its tensors, and whether it would load; or what a family's checkpoint would hold.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use diffusion::adapter::{AdapterFile, AdapterInspection};
use diffusion::model::{CallBytes, Expectation, ExpectedLayout, Inspection};

use super::model_files::PartArguments;

/// Unused tensors that are named for people; programs get all.
const SHOWN_UNUSED: usize = 20;

/// Tell what a model's folder or file or an adapter is, and whether it would load. Exit code 1 if it would not.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Folder in diffusers' layout, one .safetensors file of a whole checkpoint, or an adapter's file.
    #[arg(long, env = "EMULSION_MODEL", required_unless_present = "expect", conflicts_with = "expect")]
    model: Option<PathBuf>,
    #[command(flatten)]
    parts: PartArguments,
    /// Instead of a model's, print the names and shapes of the tensors that the family's public full-size model has (or one with the
    /// configurations in --config), and their number.
    #[arg(long, value_name = "FAMILY")]
    expect: Option<String>,
    /// Whose names --expect prints.
    #[arg(long, value_enum, default_value_t, requires = "expect")]
    layout: Layout,
    /// Print JSON for programs instead of text for people.
    #[arg(long, env = "EMULSION_JSON")]
    json: bool,
}

/// Whose names tensors have.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Layout {
    /// Those of a folder in diffusers' layout.
    #[default]
    Diffusers,
    /// Those of a single file, as the model's authors published it.
    Original,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(family) = &self.expect {
            let layout = match self.layout {
                Layout::Diffusers => ExpectedLayout::Diffusers,
                Layout::Original => ExpectedLayout::Original,
            };
            let expectation = match &self.parts.config {
                Some(config) => Expectation::of_folder(config, layout)?,
                None => Expectation::of(family, layout)?,
            };
            anyhow::ensure!(expectation.family == *family, "the configuration is of {}, not of {family}", expectation.family);
            print(&if self.json { serde_json::to_string_pretty(&expectation)? + "\n" } else { describe_expectation(&expectation) });
            return Ok(ExitCode::SUCCESS);
        }
        let model = self.model.clone().unwrap_or_default();
        if model.is_file()
            && let Some(adapter) = adapter_in(&model)?
        {
            print(&if self.json { serde_json::to_string_pretty(&adapter)? + "\n" } else { describe_adapter(&adapter) });
            return Ok(ExitCode::SUCCESS);
        }
        let inspection = Inspection::of(&self.parts.files(model));
        print(&if self.json { serde_json::to_string_pretty(&inspection)? + "\n" } else { describe(&inspection) });
        Ok(if inspection.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(text: &str) {
    // A reader that closes early, such as `head`, has seen what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The adapter in a file, unless that is a checkpoint.
fn adapter_in(path: &Path) -> anyhow::Result<Option<AdapterInspection>> {
    if Inspection::is_checkpoint(path) {
        return Ok(None);
    }
    Ok(Some(AdapterFile::open(path)?.inspect()?))
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
    if !inspection.unused.is_empty() {
        lines.push(format!("\n{} tensors that no network asks for", inspection.unused.len()));
        lines.extend(inspection.unused.iter().take(SHOWN_UNUSED).map(|name| format!("  {name}")));
        let more = inspection.unused.len().saturating_sub(SHOWN_UNUSED);
        lines.extend((more > 0).then(|| format!("  and {more} more")));
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

fn describe_expectation(expectation: &Expectation) -> String {
    let mut lines = vec![
        format!("family      {}", expectation.family),
        format!("parameters  {}", expectation.parameters),
        format!(
            "stored      {} bytes in 8, {} in 16 bits, {} in 32 bits",
            expectation.parameters,
            expectation.parameters * 2,
            expectation.parameters * 4
        ),
        format!(
            "in memory   {} bytes as f16, {} as bf16, {} as f32",
            expectation.memory_bytes.f16, expectation.memory_bytes.bf16, expectation.memory_bytes.f32
        ),
    ];
    let size = |bytes: &CallBytes| {
        let CallBytes { side, images, gpu, processor } = bytes;
        format!("computing   {side}×{side}, {images} at once: {gpu} bytes in 16 bits on a GPU, {processor} in f32 on a processor")
    };
    lines.extend(expectation.call_bytes.iter().map(size));
    for part in &expectation.parts {
        lines.push(format!("\n{}  {} tensors, {} parameters", part.folder, part.tensors.len(), part.parameters));
        lines.extend(part.tensors.iter().map(|tensor| format!("  {:?}  {}", tensor.shape, tensor.name)));
    }
    lines.join("\n") + "\n"
}
