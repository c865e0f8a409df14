//! Opens the stores of outputs and inputs where the command line says they are: a bucket, or two folders.

use std::path::Path;
use std::sync::Arc;

use axum::Router;

use crate::inputs::{self, FolderInputs, InputError, InputStore, S3Inputs};
use crate::outputs::{self, FolderStore, OutputError, OutputStore, S3Outputs, Secret};
use crate::s3::{Bucket, S3Error, S3Options, credentials_of_environment};

/// Both stores, and what is served over HTTP for them.
#[derive(Clone, Debug)]
pub struct PictureStores {
    pub outputs: Arc<dyn OutputStore>,
    pub inputs: Arc<dyn InputStore>,
    pub routes: Router,
}

#[derive(Debug, thiserror::Error)]
pub enum PictureStoreError {
    #[error(transparent)]
    Outputs(#[from] OutputError),
    #[error(transparent)]
    Inputs(#[from] InputError),
    #[error(transparent)]
    S3(#[from] S3Error),
}

impl PictureStores {
    /// The bucket that `options` name, or else folders below `data_dir`. Routers that share a bucket must share `secret`, too.
    ///
    /// # Errors
    /// When the bucket cannot be used or a folder cannot be made.
    pub async fn open(data_dir: &Path, options: &S3Options, secret: Secret) -> Result<Self, PictureStoreError> {
        let Some(url) = &options.outputs else {
            let outputs = Arc::new(FolderStore::open(&data_dir.join("outputs"), secret.clone())?);
            let inputs = Arc::new(FolderInputs::open(&data_dir.join("inputs"), secret)?);
            let routes = outputs::routes(Arc::clone(&outputs)).merge(inputs::routes(Arc::clone(&inputs)));
            return Ok(Self { outputs, inputs, routes });
        };
        let bucket = Arc::new(Bucket::open(url, options, credentials_of_environment()?).await?);
        let outputs = Arc::new(S3Outputs::new(Arc::clone(&bucket), secret));
        let routes = outputs::redirect_routes(Arc::clone(&outputs));
        Ok(Self { outputs, inputs: Arc::new(S3Inputs::new(bucket)), routes })
    }
}
