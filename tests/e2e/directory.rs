//! The data directory belongs to one daemon.

use std::time::Duration;

use postrider_tests::{events::event, receiver::Receiver};

use crate::setup;

/// BSD's `EX_CANTCREAT`: an output, here the data directory, cannot be used.
const EXIT_CANNOT_USE: i32 = 73;

/// The issue, store: a directory in use by another daemon is refused in words, and the first daemon does not notice.
#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let setup = setup();
    let daemon = setup.start().await;
    let client = daemon.client().await;
    let second = setup.spawn().ended(Duration::from_secs(30)).await;
    assert_eq!(second.status.code(), Some(EXIT_CANNOT_USE), "{}\n{}", second.status, second.log);
    let path = setup.data().to_str().expect("the path is text");
    assert!(second.log.contains(path) && second.log.contains("in use"), "{}", second.log);

    let receiver = Receiver::answering(200).await;
    client.create(&receiver.url("/"), &["*"]).await;
    client.publish([event("e", "ADD_TAG", "{}")]).await;
    receiver.received(1).await;
}
