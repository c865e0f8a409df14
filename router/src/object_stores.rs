//! Opens the stores of outputs, inputs and content where the command line says they are: a bucket, or folders.

use std::path::Path;
use std::sync::Arc;

use axum::Router;

use crate::content::{self, Content, ContentError, FolderContent, S3Content};
use crate::inputs::{self, FolderInputs, InputError, InputStore, S3Inputs};
use crate::outputs::{self, FolderStore, OutputError, OutputStore, S3Outputs, Secret};
use crate::s3::{Bucket, S3Error, S3Options, credentials_of_environment};

/// All stores of objects, and what is served over HTTP for them.
#[derive(Clone, Debug)]
pub struct ObjectStores {
    pub outputs: Arc<dyn OutputStore>,
    pub inputs: Arc<dyn InputStore>,
    pub content: Content,
    /// For callers and replicas.
    pub routes: Router,
    /// For imports.
    pub import_routes: Router,
}

#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    #[error(transparent)]
    Outputs(#[from] OutputError),
    #[error(transparent)]
    Inputs(#[from] InputError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    S3(#[from] S3Error),
}

impl ObjectStores {
    /// The bucket that `options` name, or else folders below `data_dir`. Routers that share a bucket must share `secret`, too.
    ///
    /// # Errors
    /// When the bucket cannot be used or a folder cannot be made.
    pub async fn open(data_dir: &Path, options: &S3Options, secret: Secret) -> Result<Self, ObjectStoreError> {
        let Some(url) = &options.outputs else {
            let outputs = Arc::new(FolderStore::open(&data_dir.join("outputs"), secret.clone())?);
            let inputs = Arc::new(FolderInputs::open(&data_dir.join("inputs"), secret.clone())?);
            let folder = Arc::new(FolderContent::open(&data_dir.join("content"), secret.clone())?);
            let content = Content::new(Arc::clone(&folder) as _, secret);
            let chunks = content::folder_routes(folder);
            let routes = outputs::routes(Arc::clone(&outputs)).merge(inputs::routes(Arc::clone(&inputs)));
            let routes = routes.merge(content::listing_routes(content.clone())).merge(chunks.clone());
            return Ok(Self { outputs, inputs, content, routes, import_routes: chunks });
        };
        let bucket = Arc::new(Bucket::open(url, options, credentials_of_environment()?).await?);
        let content = Content::new(Arc::new(S3Content::new(Arc::clone(&bucket))), secret.clone());
        let outputs = Arc::new(S3Outputs::new(Arc::clone(&bucket), secret));
        let routes = outputs::redirect_routes(Arc::clone(&outputs)).merge(content::listing_routes(content.clone()));
        Ok(Self { outputs, inputs: Arc::new(S3Inputs::new(bucket)), content, routes, import_routes: Router::new() })
    }
}
