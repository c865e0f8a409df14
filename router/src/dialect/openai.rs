//! OpenAI's dialect: `/v1/images/generations` and `/v1/images/edits`, whole or as a stream of previews, and `/v1/models`. Fields beyond OpenAI's own
//! (negative_prompt, seed, steps, …) are read where its clients put extra fields: beside the others.

mod answer;
mod refusal;
mod request;
mod stream;

pub use answer::{ImageData, ImagesAnswer, ModelEntry, ModelList, model, model_list, render};
pub use refusal::{ErrorBody, ErrorDetails, error_body, refuse, refuse_failure};
pub use request::{EditFields, ImageCall, Parsed, parse, parse_edit};
pub use stream::{StreamEvent, completed, failed, partial};

/// As submissions name it.
pub const DIALECT: &str = "openai";
pub const GENERATIONS_PATH: &str = "/v1/images/generations";
pub const EDITS_PATH: &str = "/v1/images/edits";
pub const MODELS_PATH: &str = "/v1/models";

#[cfg(test)]
mod tests;
