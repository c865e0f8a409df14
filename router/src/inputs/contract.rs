//! What every store of inputs must do, as replicas meet it: over HTTP. The folder and the bucket pass the very same facts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::net::TcpListener;

use super::{FolderInputs, InputStore, S3Inputs, routes};
use crate::outputs::Secret;
use crate::s3::server;

const ABC_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(3600);
/// Until a URL that was signed for one second is refused.
const PATIENCE: Duration = Duration::from_secs(20);

struct Stand {
    store: Arc<dyn InputStore>,
    base: String,
    client: reqwest::Client,
    _life: Box<dyn std::any::Any>,
}

folder_and_bucket!(
    an_input_is_named_by_what_it_is_and_read_with_a_signed_url,
    a_url_is_good_for_its_own_input_until_it_ends,
    what_is_needed_or_new_stays_and_the_rest_goes,
);

async fn in_folder() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(FolderInputs::open(folder.path(), Secret::from_bytes([5; 32])).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, routes(Arc::clone(&store))).into_future());
    Stand { store, base, client: client(), _life: Box::new(folder) }
}

async fn in_bucket() -> Stand {
    let server = server::start().await;
    let bucket = server.bucket("s3://images/some/prefix").await;
    Stand { store: Arc::new(S3Inputs::new(Arc::new(bucket))), base: String::new(), client: client(), _life: Box::new(server) }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// With another signature.
fn tampered(url: &str) -> String {
    let (rest, last) = url.split_at(url.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

impl Stand {
    async fn url(&self, sha256: &str, lifetime: Duration) -> String {
        self.store.signed_get_url(&self.base, sha256, SystemTime::now() + lifetime).await.unwrap()
    }

    async fn get(&self, url: &str) -> (u16, Bytes) {
        let answer = self.client.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    }
}

async fn an_input_is_named_by_what_it_is_and_read_with_a_signed_url(stand: &Stand) {
    assert_eq!(stand.get(&stand.url(ABC_SHA256, SOON).await).await.0, 404);
    for _ in 0..2 {
        assert_eq!(stand.store.put(Bytes::from_static(b"abc")).await.unwrap(), ABC_SHA256);
    }
    let answer = stand.client.get(stand.url(ABC_SHA256, SOON).await).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()), (200, "application/octet-stream"));
    assert_eq!(answer.bytes().await.unwrap(), "abc");
    assert_eq!(stand.get(&stand.url("../../secret", SOON).await).await.0, 404, "a bad name is the name of nothing");
}

async fn a_url_is_good_for_its_own_input_until_it_ends(stand: &Stand) {
    let (own, other) =
        (stand.store.put(Bytes::from_static(b"abc")).await.unwrap(), stand.store.put(Bytes::from_static(b"def")).await.unwrap());
    let (url, ending) = (stand.url(&own, SOON).await, stand.url(&own, Duration::from_secs(1)).await);
    for refused in [url.split_once('?').unwrap().0.to_owned(), url.replace(&own, &other), tampered(&url)] {
        assert_eq!(stand.get(&refused).await.0, 403, "{refused}");
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    while stand.get(&ending).await.0 != 403 {
        assert!(tokio::time::Instant::now() < until, "it never ended");
    }
}

async fn what_is_needed_or_new_stays_and_the_rest_goes(stand: &Stand) {
    let needed = stand.store.put(Bytes::from_static(b"needed")).await.unwrap();
    let other = stand.store.put(Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(stand.store.sweep(&HashSet::new(), LONG).await.unwrap(), 0, "all of it is new");
    assert_eq!(stand.store.sweep(&HashSet::from([needed.clone()]), Duration::ZERO).await.unwrap(), 1);
    assert_eq!(stand.get(&stand.url(&needed, SOON).await).await, (200, Bytes::from_static(b"needed")));
    assert_eq!(stand.get(&stand.url(&other, SOON).await).await.0, 404);
    assert_eq!(stand.store.sweep(&HashSet::new(), Duration::ZERO).await.unwrap(), 1);
}
