//! A real S3 server of a test's own, on loopback over a temporary folder.

use aws_sdk_s3::config::Credentials;
use tokio::net::TcpListener;

use super::serving::serve;
use super::{Bucket, S3Options};

pub(crate) const ACCESS_KEY_ID: &str = "test-access-key";
pub(crate) const SECRET_ACCESS_KEY: &str = "test-secret-key";
/// The one bucket that is there.
pub(crate) const BUCKET: &str = "images";

/// Ends with the test.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

pub(crate) async fn start() -> Server {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(serve(listener, folder.path(), ACCESS_KEY_ID, SECRET_ACCESS_KEY));
    Server { endpoint, task, _folder: folder }
}

impl Server {
    pub(crate) fn options(&self) -> S3Options {
        S3Options { s3_endpoint: Some(self.endpoint.clone()), s3_path_style: true, ..S3Options::default() }
    }

    pub(crate) async fn bucket(&self, url: &str) -> Bucket {
        let credentials = Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "test");
        Bucket::open(&url.parse().unwrap(), &self.options(), credentials).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
