//! One test of each fact for each of two implementations, so that a folder and a bucket pass the very same ones.

/// For each fact, a function over what `in_folder()` and `in_bucket()` of the calling module open, a test with either.
macro_rules! folder_and_bucket {
    ($($fact:ident),+ $(,)?) => {
        mod folder {
            $(#[tokio::test]
            async fn $fact() {
                super::$fact(&super::in_folder().await).await;
            })+
        }
        mod s3 {
            $(#[tokio::test]
            async fn $fact() {
                super::$fact(&super::in_bucket().await).await;
            })+
        }
    };
}
