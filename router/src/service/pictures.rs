//! A request's pictures on their way in, and out again once nobody needs them.

use std::time::Duration;

use runtime_api::ImageRequest;

use super::Service;
use crate::generation::{Mask, Pictures};
use crate::inputs::Size;
use crate::refusal::Refusal;

/// Between two looks for inputs that nobody needs any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);

impl Service {
    /// The request with its pictures named, and the size of its image. They are stored when it returns.
    pub(super) async fn take_pictures(
        &self,
        mut request: ImageRequest,
        pictures: Pictures,
    ) -> Result<(ImageRequest, Option<Size>), Refusal> {
        let intake = &self.house.intake;
        let mut size = None;
        if let Some(image) = pictures.image {
            let taken = intake.take(image).await?;
            (request.image, size) = (Some(taken.sha256), Some(taken.size));
        }
        let mask = match pictures.mask {
            Some(Mask::White(picture)) => Some(intake.take(picture).await?),
            Some(Mask::Transparent(picture)) => Some(intake.take_transparency(picture).await?),
            None => None,
        };
        request.mask_image = mask.map(|taken| taken.sha256);
        Ok((request, size))
    }

    /// Removes inputs `retention` after the last request that needs them has ended, until the router stops.
    pub async fn keep_inputs(self, retention: Duration) {
        let mut looks = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = self.house.abandon.cancelled() => return,
                _ = looks.tick() => self.sweep_inputs(retention).await,
            }
        }
    }

    /// One look.
    pub async fn sweep_inputs(&self, retention: Duration) {
        let needed = match self.store().needed_inputs(retention).await {
            Ok(needed) => needed,
            Err(error) => return tracing::error!("inputs that nobody needs were not looked for: {error}"),
        };
        match self.house.dispatcher.inputs.sweep(&needed, retention).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!("removed {removed} inputs that nobody needs any more"),
            Err(error) => tracing::error!("inputs that nobody needs were not removed: {error}"),
        }
    }
}
