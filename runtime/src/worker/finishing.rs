//! From pixels to stored files: encodes PNGs and puts them to their targets, off the device thread.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt;
use runtime_api::{Event, FailureReason, OutputTarget, Timings};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::generation::Generation;
use super::running::milliseconds;
use crate::infotext;
use crate::picture::{MAX_TEXT_ENTRIES, Pixels, encode_png};
use crate::upload::Uploader;

/// Images of one generation that are on their way at once.
const PARALLEL_UPLOADS: usize = 4;

/// Stores what is finished.
#[derive(Clone)]
pub(super) struct Finisher {
    pub(super) uploader: Uploader,
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
        let Generation { dispatch, deadline, mut ending, infotexts, .. } = generation;
        let began = Instant::now();
        let all = async {
            let images = dispatch.outputs.iter().zip(pixels).zip(&infotexts).map(Ok::<_, (FailureReason, String)>);
            let store =
                |((target, pixels), infotext): ((_, _), &String)| self.store_one(target, pixels, text(&dispatch.metadata, infotext));
            futures::stream::iter(images).try_for_each_concurrent(PARALLEL_UPLOADS, store).await
        };
        let stored = tokio::select! {
            stored = all => stored,
            () = ending.gone() => Err((FailureReason::Cancelled, "the router closed the stream".to_owned())),
            () = tokio::time::sleep_until(deadline.into()) => {
                Err((FailureReason::DeadlineExceeded, "the deadline passed before the images were stored".to_owned()))
            }
        };
        match stored {
            Ok(()) => {
                timings.upload_ms = milliseconds(began.elapsed());
                ending.done(timings);
            }
            Err((reason, message)) => ending.failed(reason, message),
        }
    }

    async fn store_one(&self, target: &OutputTarget, pixels: Pixels, text: Vec<(String, String)>) -> Result<(), (FailureReason, String)> {
        let encoded = tokio::task::spawn_blocking(move || encode_png(&pixels, &text)).await;
        let png = match encoded {
            Ok(Ok(png)) => png,
            Ok(Err(error)) => return Err((FailureReason::Internal, error.to_string())),
            Err(_) => return Err((FailureReason::Internal, "the png encoder panicked".to_owned())),
        };
        let stored = self.uploader.put(target, Bytes::from(png)).await;
        stored.map_err(|error| (FailureReason::OutputRejected, error.to_string()))
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
