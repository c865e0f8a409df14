//! From pixels to stored files: checks them where that was asked for, writes files and puts them to their targets, off the device thread.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use runtime_api::{Event, FailureReason, ImageRequest, OutputTarget, Timings};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::generation::Generation;
use super::running::milliseconds;
use crate::infotext;
use crate::picture::{Encoding, MAX_TEXT_ENTRIES, Pixels, encode, encode_png};
use crate::safety::SafetyChecker;
use crate::upload::Uploader;

/// Images of one generation that are on their way at once.
const PARALLEL_UPLOADS: usize = 4;

/// Stores what is finished.
#[derive(Clone)]
pub(super) struct Finisher {
    pub(super) uploader: Uploader,
    pub(super) safety_checker: Option<Arc<SafetyChecker>>,
    /// Tells the device thread that places became free.
    pub(super) wake: Arc<dyn Fn() + Send + Sync>,
}

impl Finisher {
    /// Stores the images and ends the generation. `slots` bounds how many wait here.
    pub(super) fn finish(
        &self,
        runtime: &Handle,
        generation: Generation,
        pixels: Vec<Pixels>,
        timings: Timings,
        slots: OwnedSemaphorePermit,
    ) {
        let finisher = self.clone();
        runtime.spawn(async move {
            finisher.store(generation, pixels, timings).await;
            drop(slots);
            (finisher.wake)();
        });
    }

    async fn store(&self, generation: Generation, pixels: Vec<Pixels>, mut timings: Timings) {
        let Generation { dispatch, deadline, mut ending, infotexts, family, .. } = generation;
        let began = Instant::now();
        let all = async {
            let mut all = Vec::new();
            for ((target, pixels), infotext) in dispatch.outputs.iter().zip(pixels).zip(&infotexts) {
                all.push(self.store_one(&dispatch.request, target, pixels, text(&dispatch.metadata, infotext)));
            }
            futures::stream::iter(all).buffered(PARALLEL_UPLOADS).try_collect::<Vec<bool>>().await
        };
        let stored = tokio::select! {
            stored = all => stored,
            () = ending.gone() => Err((FailureReason::Cancelled, "the router closed the stream".to_owned())),
            () = tokio::time::sleep_until(deadline.into()) => {
                Err((FailureReason::DeadlineExceeded, "the deadline passed before the images were stored".to_owned()))
            }
        };
        match stored {
            Ok(nsfw_content_detected) => {
                timings.upload_ms = milliseconds(began.elapsed());
                let was_checked = dispatch.request.safety_checker.is_some();
                ending.done(timings, if was_checked { nsfw_content_detected } else { Vec::new() }, family);
            }
            Err((reason, message)) => ending.failed(reason, message),
        }
    }

    /// Whether the image was not safe; what is stored is then drawn over.
    async fn store_one(
        &self,
        request: &ImageRequest,
        target: &OutputTarget,
        pixels: Pixels,
        text: Vec<(String, String)>,
    ) -> Result<bool, (FailureReason, String)> {
        let (checker, style) = (self.safety_checker.clone(), request.safety_checker);
        let encoding = Encoding { format: request.output_format, quality: request.output_quality };
        let written = tokio::task::spawn_blocking(move || {
            let (pixels, is_unsafe) = match (style, checker) {
                (None, _) => (pixels, false),
                (Some(style), Some(checker)) => checker.checked(pixels, style).map_err(|error| error.to_string())?,
                (Some(_), None) => return Err("the image was not checked and is not shown".to_owned()),
            };
            Ok((encode(&pixels, encoding, &text).map_err(|error| error.to_string())?, is_unsafe))
        });
        let (file, is_unsafe) = match written.await {
            Ok(written) => written.map_err(|message| (FailureReason::Internal, message))?,
            Err(_) => return Err((FailureReason::Internal, "checking or encoding the image panicked".to_owned())),
        };
        let stored = self.uploader.put(target, Bytes::from(file), encoding.format).await;
        stored.map(|()| is_unsafe).map_err(|error| (FailureReason::OutputRejected, error.to_string()))
    }
}

/// The dispatch's own entries, and how the image was made unless they say so or leave no room.
fn text(metadata: &[(String, String)], made_with: &str) -> Vec<(String, String)> {
    let mut text = metadata.to_vec();
    if text.len() < MAX_TEXT_ENTRIES && text.iter().all(|(key, _)| key != infotext::KEY) {
        text.push((infotext::KEY.to_owned(), made_with.to_owned()));
    }
    text
}

/// Encodes a preview and tells it. The outcome is delivered after it, as the stream stays open while `teller` lives.
pub(super) fn send_preview(runtime: &Handle, teller: mpsc::Sender<Event>, image: u32, index: u32, pixels: Pixels) {
    runtime.spawn_blocking(move || {
        match encode_png(&pixels, &[]) {
            // A listener too slow for previews gets the image itself.
            Ok(png) => drop(teller.try_send(Event::Preview { image, index, png_base64: STANDARD.encode(png) })),
            Err(error) => tracing::warn!(%error, "preview was not encoded"),
        }
    });
}
