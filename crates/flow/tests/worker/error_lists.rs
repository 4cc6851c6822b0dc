//! The list of a refused file's errors: it can be read for an hour, by whoever may use the pipeline.

use std::time::Duration;

use futures::TryStreamExt as _;
use penstock_flow::intake::error_file::{self, KEPT};
use penstock_flow::intake::refused::UploadError;

use crate::awake::Awake;
use crate::harness::Harness;

#[tokio::test(start_paused = true)]
async fn a_list_ends_after_an_hour() {
    let harness = Harness::new("").await;
    let _awake = Awake::new();
    let UploadError::Rejected(refused) = harness.refused(b"a\nx,y\n").await else { panic!("a refusal") };
    let list = refused.list.expect("a list");
    let left = list.expires_at.since(harness.services.clock.now());
    assert!(left <= KEPT && left > KEPT - Duration::from_secs(60), "{left:?}");
    let read = async |owner: &str, may_read: bool| {
        let pipeline = |name: &str| {
            assert_eq!(name, "test");
            may_read
        };
        let opened = error_file::open(&harness.services, owner, list.id, None, false, pipeline).await;
        match opened.expect("it is stored") {
            Some(list) => Some(list.try_collect::<Vec<_>>().await.expect("it is whole").concat()),
            None => None,
        }
    };
    let text = String::from_utf8(read("owner", true).await.expect("the list")).expect("text");
    assert!(text.starts_with("a,_line,_column,_code,_message,_ref\r\n,2,,field_count,"), "{text}");
    assert_eq!(read("owner", false).await, None);
    assert_eq!(read("rival", true).await, None);
    tokio::time::advance(left - Duration::from_millis(1)).await;
    assert!(read("owner", true).await.is_some());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(read("owner", true).await, None);
}
