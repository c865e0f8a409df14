//! What the fields of a task may be, and which belong to it. Pure.

use crds::model_deployment::{Family, Latents};
use runtime_api::{ImageRequest, Task};

use super::invalid;
use crate::refusal::Refusal;

/// What is drawn around a picture is drawn from nothing.
const DEFAULT_OUTPAINT_STRENGTH: f64 = 1.0;
/// As far as a replica softens an edge.
pub const MASK_BLUR_LIMIT_PIXELS: u32 = 256;

/// How far a picture is left behind where nobody says: as diffusers' pipelines of the family do; `None` where the family is unknown.
pub(super) fn default_strength(task: Task, family: Option<Family>) -> Option<f64> {
    let (image_to_image, inpaint) = match family?.latents() {
        Latents::StableDiffusion => (0.8, 1.0),
        Latents::StableDiffusionXl => (0.3, 0.9999),
        Latents::StableDiffusion3 | Latents::Flux => (0.6, 0.6),
    };
    match task {
        Task::ImageToImage => Some(image_to_image),
        Task::Inpaint => Some(inpaint),
        Task::Outpaint => Some(DEFAULT_OUTPAINT_STRENGTH),
        _ => None,
    }
}

fn begins_with_a_picture(task: Task) -> bool {
    matches!(task, Task::ImageToImage | Task::Inpaint | Task::Outpaint)
}

/// Fields that are out of bounds or do not belong to the task, pictures aside.
pub(super) fn check(request: &ImageRequest) -> Result<(), Refusal> {
    let strays = [
        ("strength", request.strength.is_some() && !begins_with_a_picture(request.task)),
        ("mask_blur", request.mask_blur.is_some() && !matches!(request.task, Task::Inpaint | Task::Outpaint)),
        ("margins", request.margins.is_some() && request.task != Task::Outpaint),
    ];
    if let Some((field, _)) = strays.into_iter().find(|(_, is_stray)| *is_stray) {
        return Err(invalid(field, format!("{field} means nothing for {}", name(request.task))));
    }
    // Not-a-number is within no range.
    if request.strength.is_some_and(|strength| !(strength > 0.0 && strength <= 1.0)) {
        return Err(invalid("strength", "strength must be above 0 and at most 1".to_owned()));
    }
    if request.mask_blur.is_some_and(|pixels| pixels > MASK_BLUR_LIMIT_PIXELS) {
        return Err(invalid("mask_blur", format!("mask_blur must be between 0 and {MASK_BLUR_LIMIT_PIXELS}")));
    }
    Ok(())
}

/// Pictures that the task needs, and those that it does not use.
pub(super) fn check_pictures(request: &ImageRequest) -> Result<(), Refusal> {
    let needs_image = begins_with_a_picture(request.task);
    let needs_mask = request.task == Task::Inpaint;
    for (field, is_there, is_needed) in
        [("image", request.image.is_some(), needs_image), ("mask_image", request.mask_image.is_some(), needs_mask)]
    {
        match (is_there, is_needed) {
            (true, false) => return Err(invalid(field, format!("{field} means nothing for {}", name(request.task)))),
            (false, true) => return Err(invalid(field, format!("{field} is required for {}", name(request.task)))),
            _ => {}
        }
    }
    Ok(())
}

fn name(task: Task) -> &'static str {
    match task {
        Task::ImageToImage => "image-to-image",
        Task::Inpaint => "inpainting",
        Task::Outpaint => "outpainting",
        _ => "text-to-image",
    }
}

#[cfg(test)]
mod tests {
    use runtime_api::Margins;

    use super::*;

    fn request(task: Task) -> ImageRequest {
        ImageRequest { task, ..ImageRequest::text_to_image("demo", "a red circle") }
    }

    #[test]
    fn strength_is_above_nothing_and_at_most_one() {
        for strength in [0.001, 0.5, 1.0] {
            assert_eq!(check(&ImageRequest { strength: Some(strength), ..request(Task::ImageToImage) }), Ok(()), "{strength}");
        }
        for strength in [0.0, -0.5, 1.001, 2.0, f64::NAN, f64::INFINITY] {
            let refusal = check(&ImageRequest { strength: Some(strength), ..request(Task::Inpaint) }).unwrap_err().to_string();
            assert_eq!(refusal, "strength must be above 0 and at most 1", "{strength}");
        }
    }

    #[test]
    fn fields_of_another_task_are_refused() {
        let stray = |request: ImageRequest| check(&request).unwrap_err().to_string();
        assert_eq!(stray(ImageRequest { strength: Some(0.5), ..request(Task::TextToImage) }), "strength means nothing for text-to-image");
        assert_eq!(stray(ImageRequest { mask_blur: Some(1), ..request(Task::ImageToImage) }), "mask_blur means nothing for image-to-image");
        assert_eq!(
            stray(ImageRequest { margins: Some(Margins::default()), ..request(Task::Inpaint) }),
            "margins means nothing for inpainting"
        );
        assert_eq!(stray(ImageRequest { mask_blur: Some(257), ..request(Task::Inpaint) }), "mask_blur must be between 0 and 256");
    }

    #[test]
    fn each_task_has_exactly_its_pictures() {
        let pictures = |task, image: bool, mask: bool| {
            let digest = |is_there: bool| is_there.then(|| "ab".repeat(32));
            check_pictures(&ImageRequest { image: digest(image), mask_image: digest(mask), ..request(task) })
                .map_err(|refusal| refusal.to_string())
        };
        for (task, image, mask) in [
            (Task::TextToImage, false, false),
            (Task::ImageToImage, true, false),
            (Task::Inpaint, true, true),
            (Task::Outpaint, true, false),
        ] {
            for (has_image, has_mask) in [(false, false), (true, false), (false, true), (true, true)] {
                assert_eq!(pictures(task, has_image, has_mask).is_ok(), (has_image, has_mask) == (image, mask), "{task:?}");
            }
        }
        assert_eq!(pictures(Task::Inpaint, false, true).unwrap_err(), "image is required for inpainting");
        assert_eq!(pictures(Task::Inpaint, true, false).unwrap_err(), "mask_image is required for inpainting");
        assert_eq!(pictures(Task::TextToImage, false, true).unwrap_err(), "mask_image means nothing for text-to-image");
    }
}
