//! The S3 server of the acceptance tests: `s3_server ADDRESS FOLDER`, with its credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

use std::env;
use std::path::Path;

use tokio::net::TcpListener;

#[path = "../src/s3/serving.rs"]
mod serving;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(address), Some(folder)) = (arguments.next(), arguments.next()) else { anyhow::bail!("s3_server ADDRESS FOLDER") };
    let (id, key) = (env::var("AWS_ACCESS_KEY_ID")?, env::var("AWS_SECRET_ACCESS_KEY")?);
    serving::serve(TcpListener::bind(address).await?, Path::new(&folder), &id, &key).await;
    Ok(())
}
