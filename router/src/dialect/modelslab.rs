//! ModelsLab's dialect, versions 3 to 7: one body and one answer under many paths. Errors carry real HTTP statuses and a text as
//! `message`; a failed generation is told with status 200 by a fetch, as its clients expect.

mod answer;
mod refusal;
mod request;

use runtime_api::Task;

pub use answer::{Answering, Failed, LegacyModel, Meta, Processing, Success, model_list, render_fetch, render_sync};
pub use refusal::{ErrorBody, error_body, refuse};
pub use request::{FetchFields, Parsed, PictureFields, TextToImageFields, parse, parse_fetch_id};

/// A family of paths: it decides where answers send their callers to fetch. Every id works on every family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// As submissions name it.
    pub dialect: &'static str,
    /// The path of its fetch route, without the id.
    pub fetch_path: &'static str,
}

const fn family(dialect: &'static str, fetch_path: &'static str) -> Family {
    Family { dialect, fetch_path }
}

pub const V7: Family = family("modelslab/v7", "/api/v7/images/fetch");
pub const V6: Family = family("modelslab/v6", "/api/v6/images/fetch");
pub const V6_REALTIME: Family = family("modelslab/v6", "/api/v6/realtime/fetch");
pub const V6_EDITING: Family = family("modelslab/v6", "/api/v6/image_editing/fetch");
pub const V5: Family = family("modelslab/v5", "/api/v5/images/fetch");
pub const V4_DREAMBOOTH: Family = family("modelslab/v4", "/api/v4/dreambooth/fetch");
pub const V3_DREAMBOOTH: Family = family("modelslab/v3", "/api/v3/dreambooth/fetch");
pub const V3: Family = family("modelslab/v3", "/api/v3/fetch");

/// The paths that take a call for images, and what each makes them from.
pub const GENERATION_PATHS: [(&str, Task, Family); 21] = [
    ("/api/v7/images/text-to-image", Task::TextToImage, V7),
    ("/api/v6/images/text2img", Task::TextToImage, V6),
    ("/api/v6/realtime/text2img", Task::TextToImage, V6_REALTIME),
    ("/api/v4/dreambooth", Task::TextToImage, V4_DREAMBOOTH),
    ("/api/v3/dreambooth", Task::TextToImage, V3_DREAMBOOTH),
    ("/api/v3/text2img", Task::TextToImage, V3),
    ("/api/v7/images/image-to-image", Task::ImageToImage, V7),
    ("/api/v6/images/img2img", Task::ImageToImage, V6),
    ("/api/v6/realtime/img2img", Task::ImageToImage, V6_REALTIME),
    ("/api/v4/dreambooth/img2img", Task::ImageToImage, V4_DREAMBOOTH),
    ("/api/v3/dreambooth/img2img", Task::ImageToImage, V3_DREAMBOOTH),
    ("/api/v3/img2img", Task::ImageToImage, V3),
    ("/api/v7/images/inpaint", Task::Inpaint, V7),
    ("/api/v6/images/inpaint", Task::Inpaint, V6),
    ("/api/v6/realtime/inpaint", Task::Inpaint, V6_REALTIME),
    ("/api/v6/image_editing/inpaint", Task::Inpaint, V6_EDITING),
    ("/api/v4/dreambooth/inpaint", Task::Inpaint, V4_DREAMBOOTH),
    ("/api/v3/dreambooth/inpaint", Task::Inpaint, V3_DREAMBOOTH),
    ("/api/v3/inpaint", Task::Inpaint, V3),
    ("/api/v6/image_editing/outpaint", Task::Outpaint, V6_EDITING),
    ("/api/v5/outpaint", Task::Outpaint, V5),
];

/// The families whose fetch routes are served.
pub const FETCH_FAMILIES: [Family; 8] = [V7, V6, V6_REALTIME, V6_EDITING, V5, V4_DREAMBOOTH, V3_DREAMBOOTH, V3];

/// The paths that list models.
pub const MODEL_LIST_PATHS: [&str; 2] = ["/api/v4/dreambooth/model_list", "/api/v3/dreambooth/model_list"];

#[cfg(test)]
mod tests;
