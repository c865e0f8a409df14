//! What a request's pictures become: the size of the images that will be made, and the bytes they begin with. Pure.
//!
//! | task | size | begins with |
//! |---|---|---|
//! | image to image | `width`×`height`, where absent the image's own sides rounded down to multiples of 8 | the image, scaled to it |
//! | inpaint | the same | the image and the mask, blurred, both scaled to it |
//! | outpaint | `width`×`height`, where absent the image with its margins, rounded up to multiples of 8 by more margin on the right and below | the image, scaled to what the margins leave, its edge drawn out over them |

use std::sync::Arc;

use diffusion::picture::{GrayImage, Margins, RgbImage, outpainting};
use diffusion::pipeline::{GivenLatents, Start};
use runtime_api::{ImageRequest, Task};

use crate::engine::Defaults;
use crate::request::{InvalidRequest, Limits, SIDE_MULTIPLE, check_size, small, uses};

/// Of Stable Diffusion, until the model is known: what is usual for it takes their place.
const DEFAULT_IMAGE_TO_IMAGE_STRENGTH: f64 = 0.8;
const DEFAULT_INPAINT_STRENGTH: f64 = 1.0;
/// Pixels of the image over which an outpainting's mask fades where the request has no `mask_blur`.
const DEFAULT_OVERLAP: u32 = 16;

/// A request's pictures, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pictures {
    pub image: Option<RgbImage>,
    pub mask: Option<GrayImage>,
}

/// A request's pictures, ready for the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Canvas {
    /// Of the images that will be made, in pixels.
    pub width: u32,
    /// Of the images that will be made, in pixels.
    pub height: u32,
    pub start: Start,
}

impl Canvas {
    /// Noise alone, in the request's size or the model's.
    pub(crate) fn blank(request: &ImageRequest, defaults: &Defaults) -> Self {
        let width = request.width.unwrap_or(small(defaults.width));
        let height = request.height.unwrap_or(small(defaults.height));
        Self { width, height, start: Start::Noise }
    }

    /// Latents in place of a picture, as large as they are: `latent_scale` pixels along each side of a position.
    ///
    /// # Errors
    /// [`InvalidRequest`] where the image would be larger than `limits`, or the task is another.
    pub fn of_latents(request: &ImageRequest, latents: GivenLatents, latent_scale: usize, limits: &Limits) -> Result<Self, InvalidRequest> {
        if request.task != Task::ImageToImage {
            return Err(InvalidRequest::Unused { field: "image_latents", task: request.task });
        }
        let side =
            |from_the_end| latents.0.dims().iter().rev().nth(from_the_end).map_or(0, |side| small(side.saturating_mul(latent_scale)));
        let (width, height) = (request.width.unwrap_or(side(0)), request.height.unwrap_or(side(1)));
        check_size(width, height, limits)?;
        let strength = request.strength.unwrap_or(DEFAULT_IMAGE_TO_IMAGE_STRENGTH);
        Ok(Self { width, height, start: Start::Latents { latents, strength } })
    }

    /// `None` where the task needs no picture.
    ///
    /// # Errors
    /// [`InvalidRequest`] where a picture is missing or not used, too small or too large for `limits`.
    pub fn new(request: &ImageRequest, pictures: &Pictures, limits: &Limits) -> Result<Option<Self>, InvalidRequest> {
        for (field, is_given) in [("image", pictures.image.is_some()), ("mask_image", pictures.mask.is_some())] {
            if is_given && !uses(request.task, field) {
                return Err(InvalidRequest::Unused { field, task: request.task });
            }
        }
        if request.task == Task::TextToImage {
            return Ok(None);
        }
        let image = pictures.image.as_ref().ok_or(InvalidRequest::Missing { field: "image", task: request.task })?;
        if image.width == 0 || image.height == 0 {
            return Err(InvalidRequest::TooSmall { width: 0, height: 0 });
        }
        if request.task == Task::Outpaint {
            return outpaint(request, image, limits).map(Some);
        }
        let [width, height] = sides(request, image)?;
        check_size(width, height, limits)?;
        let (columns, rows) = (width as usize, height as usize);
        let start = if request.task == Task::Inpaint {
            let mask = pictures.mask.as_ref().ok_or(InvalidRequest::Missing { field: "mask_image", task: request.task })?;
            let mask = mask.blurred(request.mask_blur.unwrap_or(0)).resized(columns, rows);
            let strength = request.strength.unwrap_or(DEFAULT_INPAINT_STRENGTH);
            Start::Inpaint { image: Arc::new(image.resized(columns, rows)), mask: Arc::new(mask), strength }
        } else {
            let strength = request.strength.unwrap_or(DEFAULT_IMAGE_TO_IMAGE_STRENGTH);
            Start::Image { image: Arc::new(image.resized(columns, rows)), strength }
        };
        Ok(Some(Self { width, height, start }))
    }
}

/// The request's own sides, else the image's, rounded down.
fn sides(request: &ImageRequest, image: &RgbImage) -> Result<[u32; 2], InvalidRequest> {
    let rounded = |pixels: usize| small(pixels) / SIDE_MULTIPLE * SIDE_MULTIPLE;
    let width = request.width.unwrap_or(rounded(image.width));
    let height = request.height.unwrap_or(rounded(image.height));
    if width == 0 || height == 0 {
        return Err(InvalidRequest::TooSmall { width: small(image.width), height: small(image.height) });
    }
    Ok([width, height])
}

fn outpaint(request: &ImageRequest, image: &RgbImage, limits: &Limits) -> Result<Canvas, InvalidRequest> {
    let margins = request.margins.unwrap_or_default();
    let across = u64::from(margins.left) + u64::from(margins.right);
    let down = u64::from(margins.top) + u64::from(margins.bottom);
    let side = |asked: Option<u32>, own: usize, margins: u64| {
        asked.map_or((own as u64 + margins).next_multiple_of(u64::from(SIDE_MULTIPLE)), u64::from).try_into().unwrap_or(u32::MAX)
    };
    let width: u32 = side(request.width, image.width, across);
    let height: u32 = side(request.height, image.height, down);
    check_size(width, height, limits)?;
    let inner = |asked: Option<u32>, own: usize, whole: u32, margins: u64| match asked {
        Some(_) => u64::from(whole).saturating_sub(margins) as usize,
        None => own,
    };
    let columns = inner(request.width, image.width, width, across);
    let rows = inner(request.height, image.height, height, down);
    if columns == 0 || rows == 0 {
        return Err(InvalidRequest::Margins { width, height });
    }
    let (left, top) = (margins.left as usize, margins.top as usize);
    let margins = Margins { left, right: width as usize - left - columns, top, bottom: height as usize - top - rows };
    let overlap = request.mask_blur.unwrap_or(DEFAULT_OVERLAP) as usize;
    let made = outpainting(&image.resized(columns, rows), margins, overlap);
    let strength = request.strength.unwrap_or(DEFAULT_INPAINT_STRENGTH);
    Ok(Canvas { width, height, start: Start::Inpaint { image: Arc::new(made.image), mask: Arc::new(made.mask), strength } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(width: usize, height: usize) -> Pictures {
        let image = RgbImage { width, height, data: vec![77; width * height * 3] };
        Pictures { image: Some(image), mask: None }
    }

    fn masked(width: usize, height: usize) -> Pictures {
        Pictures { mask: Some(GrayImage { width: 2, height: 1, data: vec![0, 255] }), ..pictures(width, height) }
    }

    fn canvas(task: Task, pictures: &Pictures, change: impl FnOnce(&mut ImageRequest)) -> Result<Canvas, InvalidRequest> {
        let mut request = ImageRequest { task, ..ImageRequest::text_to_image("", "") };
        change(&mut request);
        Canvas::new(&request, pictures, &Limits::default()).map(Option::unwrap)
    }

    fn inpainting(canvas: Canvas) -> (Arc<RgbImage>, Arc<GrayImage>) {
        match canvas.start {
            Start::Inpaint { image, mask, .. } => (image, mask),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn size_is_the_requests_or_the_images_rounded_down() {
        for (task, pictures) in [(Task::ImageToImage, pictures(30, 17)), (Task::Inpaint, masked(30, 17))] {
            let own = canvas(task, &pictures, |_| ()).unwrap();
            assert_eq!((own.width, own.height), (24, 16));
            let asked = canvas(task, &pictures, |request| request.width = Some(64)).unwrap();
            assert_eq!((asked.width, asked.height), (64, 16));
        }
        assert_eq!(canvas(Task::ImageToImage, &pictures(30, 7), |_| ()), Err(InvalidRequest::TooSmall { width: 30, height: 7 }));
    }

    #[test]
    fn strength_is_stable_diffusions_where_the_request_has_none() {
        let made = canvas(Task::ImageToImage, &pictures(8, 8), |_| ()).unwrap();
        assert!(matches!(made.start, Start::Image { strength: 0.8, .. }));
        let made = canvas(Task::Inpaint, &masked(8, 8), |_| ()).unwrap();
        assert!(matches!(made.start, Start::Inpaint { strength: 1.0, .. }));
        let made = canvas(Task::Inpaint, &masked(8, 8), |request| request.strength = Some(0.25)).unwrap();
        assert!(matches!(made.start, Start::Inpaint { strength: 0.25, .. }));
    }

    #[test]
    fn mask_of_any_size_comes_in_the_images_size_and_its_blur_counts_in_its_own_pixels() {
        let (image, mask) = inpainting(canvas(Task::Inpaint, &masked(16, 8), |_| ()).unwrap());
        assert_eq!((image.width, image.height, mask.width, mask.height), (16, 8, 16, 8));
        assert_eq!((mask.data[0], mask.data[15]), (0, 255));
        let (_, blurred) = inpainting(canvas(Task::Inpaint, &masked(16, 8), |request| request.mask_blur = Some(4)).unwrap());
        assert!(blurred.data[0] > 100 && blurred.data[15] < 160, "{:?}", &blurred.data[..16]);
    }

    #[test]
    fn outpainting_grows_to_the_next_multiple_of_eight_and_keeps_the_picture() {
        let margins = runtime_api::Margins { left: 5, top: 8, ..Default::default() };
        let made = canvas(Task::Outpaint, &pictures(30, 17), |request| (request.margins, request.mask_blur) = (Some(margins), Some(0)));
        let made = made.unwrap();
        assert_eq!((made.width, made.height), (40, 32));
        let (image, mask) = inpainting(made);
        assert!(image.data.iter().all(|&value| value == 77));
        let kept = mask.data.iter().filter(|&&value| value == 0).count();
        assert_eq!(kept, 30 * 17);
        assert_eq!((mask.data[8 * 40 + 5], mask.data[8 * 40 + 4], mask.data[24 * 40 + 34]), (0, 255, 0));
    }

    #[test]
    fn outpainting_of_a_named_size_scales_the_picture_to_what_the_margins_leave() {
        let margins = runtime_api::Margins { left: 4, right: 4, ..Default::default() };
        let asked = |width| {
            canvas(Task::Outpaint, &pictures(30, 17), |request| {
                (request.margins, request.width, request.height, request.mask_blur) = (Some(margins), Some(width), Some(16), Some(0));
            })
        };
        let (_, mask) = inpainting(asked(64).unwrap());
        assert_eq!(mask.data.iter().filter(|&&value| value == 0).count(), 56 * 16);
        assert_eq!(asked(8), Err(InvalidRequest::Margins { width: 8, height: 16 }));
    }

    #[test]
    fn pictures_that_a_task_needs_are_named() {
        let none = Pictures::default();
        let missing = canvas(Task::ImageToImage, &none, |_| ()).unwrap_err();
        assert_eq!(missing, InvalidRequest::Missing { field: "image", task: Task::ImageToImage });
        let missing = canvas(Task::Inpaint, &pictures(8, 8), |_| ()).unwrap_err();
        assert_eq!(missing, InvalidRequest::Missing { field: "mask_image", task: Task::Inpaint });
        let unused = canvas(Task::ImageToImage, &masked(8, 8), |_| ()).unwrap_err();
        assert_eq!(unused, InvalidRequest::Unused { field: "mask_image", task: Task::ImageToImage });
    }

    #[test]
    fn images_beyond_the_limits_are_refused_before_they_are_scaled() {
        let huge = canvas(Task::ImageToImage, &pictures(8, 8), |request| (request.width, request.height) = (Some(1 << 20), Some(1 << 20)));
        assert!(matches!(huge, Err(InvalidRequest::Pixels { .. })));
        let margins = runtime_api::Margins { left: u32::MAX, right: u32::MAX, ..Default::default() };
        let huge = canvas(Task::Outpaint, &pictures(8, 8), |request| request.margins = Some(margins));
        assert!(huge.is_err());
    }
}
