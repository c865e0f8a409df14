//! S3 over a folder, for tests alone: it checks signatures, expiry and conditions as a real store does.

use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

/// Serves the folder, whose subfolders are its buckets.
pub(crate) fn serve(
    listener: TcpListener,
    folder: &Path,
    access_key_id: &str,
    secret_access_key: &str,
) -> impl Future<Output = ()> + Send + 'static {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    service.set_auth(SimpleAuth::from_single(access_key_id, secret_access_key));
    let service = service.build();
    async move {
        let connections = Builder::new(TokioExecutor::new());
        while let Ok((socket, _)) = listener.accept().await {
            let connection = connections.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
            tokio::spawn(async move {
                // A client that goes away is none of a test's business.
                let _ = connection.await;
            });
        }
    }
}
