//! The data directory belongs to one daemon.

use std::{
    fs,
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    time::Duration,
};

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

/// The control socket's name is the daemon's: the socket of one that died is replaced, and nothing else is lost for it.
#[tokio::test]
async fn what_is_in_the_way_of_the_control_socket_is_told_and_left_alone() {
    let setup = setup();
    let socket = setup.data().join("control.sock");
    let is_refused = async || {
        let ended = setup.spawn().ended(Duration::from_secs(30)).await;
        assert_eq!(ended.status.code(), Some(EXIT_CANNOT_USE), "{}\n{}", ended.status, ended.log);
        assert!(ended.log.contains("control.sock is in the way"), "{}", ended.log);
    };
    fs::write(&socket, "precious").expect("writable");
    is_refused().await;
    assert_eq!(fs::read(&socket).expect("it is there"), b"precious");
    fs::remove_file(&socket).expect("removable");
    fs::create_dir(&socket).expect("writable");
    is_refused().await;
    fs::remove_dir(&socket).expect("it is still empty");
    symlink("elsewhere", &socket).expect("writable");
    is_refused().await;
    fs::remove_file(&socket).expect("it is still there");

    // Nobody listens at it any more.
    drop(UnixListener::bind(&socket).expect("a socket"));
    let daemon = setup.start().await;
    UnixStream::connect(&socket).expect("it listens");
    daemon.stop().await;
    assert!(!socket.exists());
}
