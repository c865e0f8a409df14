//! Fields that no client's API has and every dialect takes: what single families of models heed beside the prompt, by diffusers' own names.

use runtime_api::{ImageRequest, RefinerUse};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Fields, fields, lenient};
use crate::refusal::Refusal;

/// Where a refiner goes on if nobody says: diffusers' own example.
const DEFAULT_REFINER_START: f64 = 0.8;

/// Beside the fields of every call for images, in every dialect, by the names of diffusers' pipelines. A model that does not heed one of them
/// refuses the call.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = ExtensionFields)]
pub struct ExtensionFields {
    /// What the second text encoder reads (SDXL, Stable Diffusion 3, Flux); absent or empty: the prompt.
    #[serde(deserialize_with = "lenient::text")]
    pub prompt_2: Option<String>,
    /// What the third text encoder reads (Stable Diffusion 3).
    #[serde(deserialize_with = "lenient::text")]
    pub prompt_3: Option<String>,
    /// For the second text encoder; absent or empty: the negative prompt.
    #[serde(deserialize_with = "lenient::text")]
    pub negative_prompt_2: Option<String>,
    /// For the third text encoder.
    #[serde(deserialize_with = "lenient::text")]
    pub negative_prompt_3: Option<String>,
    /// Tokens that T5 reads, 1 to 512 (Stable Diffusion 3, Flux).
    #[serde(deserialize_with = "lenient::whole")]
    pub max_sequence_length: Option<u32>,
    /// Strength of guidance by the negative prompt, 0 to 30, for models whose `guidance_scale` is an input (Flux).
    #[serde(deserialize_with = "lenient::number")]
    pub true_cfg_scale: Option<f64>,
    /// 0 to 1.
    #[serde(deserialize_with = "lenient::number")]
    pub guidance_rescale: Option<f64>,
    /// Height and width, in pixels, that SDXL is told: `[1024, 1024]`, or "1024,1024".
    #[serde(deserialize_with = "lenient::pair")]
    pub original_size: Option<[u32; 2]>,
    /// Height and width, in pixels, that SDXL is told.
    #[serde(deserialize_with = "lenient::pair")]
    pub target_size: Option<[u32; 2]>,
    /// Top and left, in pixels, that SDXL is told.
    #[serde(deserialize_with = "lenient::pair")]
    pub crops_coords_top_left: Option<[u32; 2]>,
    /// For the negative prediction.
    #[serde(deserialize_with = "lenient::pair")]
    pub negative_original_size: Option<[u32; 2]>,
    /// For the negative prediction.
    #[serde(deserialize_with = "lenient::pair")]
    pub negative_target_size: Option<[u32; 2]>,
    /// For the negative prediction.
    #[serde(deserialize_with = "lenient::pair")]
    pub negative_crops_coords_top_left: Option<[u32; 2]>,
    /// 0 to 10, that SDXL's refiner is told.
    #[serde(deserialize_with = "lenient::number")]
    pub aesthetic_score: Option<f64>,
    /// For the negative prediction.
    #[serde(deserialize_with = "lenient::number")]
    pub negative_aesthetic_score: Option<f64>,
    /// The share of the schedule, above 0 and below 1, at which it is entered (SDXL and its refiner).
    #[serde(deserialize_with = "lenient::number")]
    pub denoising_start: Option<f64>,
    /// The share of the schedule at which it is left (SDXL and its refiner).
    #[serde(deserialize_with = "lenient::number")]
    pub denoising_end: Option<f64>,
    /// The id of a model that goes on where the called one leaves off, such as SDXL's refiner.
    #[serde(deserialize_with = "lenient::filled_text")]
    pub refiner: Option<String>,
    /// The share of the schedule, above 0 and below 1, at which it goes on; 0.8 if absent.
    #[serde(deserialize_with = "lenient::number")]
    pub refiner_start: Option<f64>,
}

impl ExtensionFields {
    /// Those among the fields of a call.
    pub(super) fn read(fields: &Fields) -> Result<Self, Refusal> {
        fields::typed(fields.clone())
    }

    /// The request with them.
    pub(super) fn extend(self, request: ImageRequest) -> ImageRequest {
        let start = self.refiner_start.unwrap_or(DEFAULT_REFINER_START);
        ImageRequest {
            prompt_2: self.prompt_2,
            prompt_3: self.prompt_3,
            negative_prompt_2: self.negative_prompt_2,
            negative_prompt_3: self.negative_prompt_3,
            max_sequence_length: self.max_sequence_length,
            true_cfg_scale: self.true_cfg_scale,
            guidance_rescale: self.guidance_rescale,
            original_size: self.original_size,
            target_size: self.target_size,
            crops_coords_top_left: self.crops_coords_top_left,
            negative_original_size: self.negative_original_size,
            negative_target_size: self.negative_target_size,
            negative_crops_coords_top_left: self.negative_crops_coords_top_left,
            aesthetic_score: self.aesthetic_score,
            negative_aesthetic_score: self.negative_aesthetic_score,
            denoising_start: self.denoising_start,
            denoising_end: self.denoising_end,
            refiner: self.refiner.map(|model| RefinerUse { model, start }),
            ..request
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime_api::Task;
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::{Content, modelslab, openai};

    fn fields(value: &Value) -> Fields {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn both_dialects_take_them_as_numbers_texts_and_lists() {
        let sent = json!({
            "prompt": "a", "prompt_2": "b", "prompt_3": "c", "negative_prompt_2": "d", "negative_prompt_3": "", "max_sequence_length": "77",
            "true_cfg_scale": "4.5", "guidance_rescale": 0.7, "original_size": [1024, 768], "target_size": "512, 640",
            "crops_coords_top_left": ["8", 0], "negative_original_size": null, "negative_target_size": "", "aesthetic_score": 7,
            "negative_aesthetic_score": 2.5, "denoising_start": 0.8, "denoising_end": "0.9", "refiner": "fine", "refiner_start": "0.7",
        });
        let family = modelslab::GENERATION_PATHS[0].2;
        let theirs = modelslab::parse(Content::from(fields(&sent)), Task::TextToImage, family).unwrap().submission.request;
        let others = openai::parse(Content::from(fields(&sent))).unwrap().submission.request;
        for request in [theirs, others] {
            let texts: Vec<_> = request.texts().collect();
            let expected = [("prompt", "a"), ("prompt_2", "b"), ("prompt_3", "c"), ("negative_prompt_2", "d"), ("negative_prompt_3", "")];
            assert_eq!(texts, expected);
            assert_eq!((request.max_sequence_length, request.true_cfg_scale, request.guidance_rescale), (Some(77), Some(4.5), Some(0.7)));
            assert_eq!((request.original_size, request.target_size), (Some([1024, 768]), Some([512, 640])));
            assert_eq!((request.crops_coords_top_left, request.negative_original_size), (Some([8, 0]), None));
            assert_eq!((request.negative_target_size, request.negative_crops_coords_top_left), (None, None));
            assert_eq!((request.aesthetic_score, request.negative_aesthetic_score), (Some(7.0), Some(2.5)));
            assert_eq!((request.denoising_start, request.denoising_end), (Some(0.8), Some(0.9)));
            assert_eq!(request.refiner, Some(RefinerUse { model: "fine".to_owned(), start: 0.7 }));
        }
    }

    #[test]
    fn a_refiner_begins_where_nobody_says_at_four_fifths_and_a_start_alone_is_none() {
        let refiner = |sent: Value| ExtensionFields::read(&fields(&sent)).unwrap().extend(ImageRequest::text_to_image("demo", "a")).refiner;
        assert_eq!(refiner(json!({"refiner": "fine"})), Some(RefinerUse { model: "fine".to_owned(), start: 0.8 }));
        assert_eq!(refiner(json!({"refiner": " ", "refiner_start": 0.5})), None);
    }

    #[test]
    fn what_is_no_pair_is_refused_by_name() {
        for value in [json!([1]), json!([1, 2, 3]), json!("1024x1024"), json!(1024), json!([1.5, 2]), json!({"height": 1})] {
            let refused = ExtensionFields::read(&fields(&json!({ "original_size": value }))).unwrap_err().to_string();
            assert!(refused.starts_with("original_size must be two whole numbers"), "{refused}");
        }
    }
}
