use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::sync::Barrier;
use std::thread;

use super::*;

/// The longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(60);

fn private() -> Mode {
    Mode::S_IRUSR | Mode::S_IWUSR
}

fn bind_private(path: &Path) -> Result<LocalSocket, LocalSocketError> {
    LocalSocket::bind(path, private())
}

/// Leaves the file of a socket that no process listens on, as a kill does.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

#[test]
fn socket_has_its_mode_and_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let socket = bind_private(&path).unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    let _peer = connect_to(&path, PATIENCE).unwrap();
    let (mut connection, _) = socket.listener.accept().unwrap();
    drop(_peer);
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    assert_eq!(socket.listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(socket.file.path(), path);
    socket.file.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    leave_stale(&path);
    let socket = bind_private(&path).unwrap();
    let error = bind_private(&path).unwrap_err();
    assert!(matches!(error, LocalSocketError::InUse) && error.is_busy(), "{error}");
    // Full queues of connections are no reason to replace it.
    let mut peers = Vec::new();
    while let Ok(()) = {
        let peer = stream_socket().unwrap();
        let outcome = connect(peer.as_raw_fd(), &UnixAddr::new(&path).unwrap());
        peers.push(peer);
        outcome
    } {}
    assert!(matches!(bind_private(&path).unwrap_err(), LocalSocketError::InUse));
    assert!(path.exists());
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn of_many_starts_at_once_one_gets_the_socket_and_keeps_it() {
    const STARTS: usize = 4;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    for round in 0..1000 {
        leave_stale(&path);
        let barrier = Barrier::new(STARTS);
        let bound: Vec<LocalSocket> = thread::scope(|scope| {
            let start = || {
                barrier.wait();
                // A lock is held for a moment only.
                loop {
                    match bind_private(&path) {
                        Err(LocalSocketError::Locked) => thread::yield_now(),
                        Err(LocalSocketError::InUse) => return None,
                        outcome => return Some(outcome.unwrap()),
                    }
                }
            };
            let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
            starts.into_iter().filter_map(|start| start.join().unwrap()).collect()
        });
        assert_eq!(bound.len(), 1, "in round {round}");
        let accept = || bound[0].listener.accept();
        // The probes of the others.
        while accept().is_ok() {}
        let _peer = connect_to(&path, PATIENCE).unwrap();
        accept().unwrap();
    }
}

#[test]
fn locked_directory_and_files_of_others_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    fs::write(&path, "text").unwrap();
    assert!(matches!(bind_private(&path).unwrap_err(), LocalSocketError::NotSocket));
    assert_eq!(fs::read(&path).unwrap(), b"text");

    let link = directory.path().join("link");
    symlink("elsewhere", &link).unwrap();
    assert!(matches!(bind_private(&link).unwrap_err(), LocalSocketError::NotSocket));
    assert!(!directory.path().join("elsewhere").exists());

    let datagrams = directory.path().join("datagrams");
    let _socket = UnixDatagram::bind(&datagrams).unwrap();
    assert!(matches!(bind_private(&datagrams).unwrap_err(), LocalSocketError::InUse));

    let stale = directory.path().join("stale");
    leave_stale(&stale);
    let lock = File::open(directory.path()).unwrap();
    lock.lock().unwrap();
    let error = bind_private(&stale).unwrap_err();
    assert!(matches!(error, LocalSocketError::Locked) && error.is_busy(), "{error}");
    assert!(stale.exists());
    drop(lock);
    bind_private(&stale).unwrap();
}

#[test]
fn file_that_took_its_place_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let first = bind_private(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = bind_private(&path).unwrap();
    first.file.remove().unwrap();
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn long_paths_are_reached_through_their_directory() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("a".repeat(200)).join("b".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("c".repeat(LONGEST_NAME));
    for _ in 0..2 {
        leave_stale(&directory.path().join("s"));
        fs::rename(directory.path().join("s"), &path).unwrap();
        let socket = bind_private(&path).unwrap();
        assert!(matches!(bind_private(&path).unwrap_err(), LocalSocketError::InUse));
        while socket.listener.accept().is_ok() {}
        let _peer = connect_to(&path, PATIENCE).unwrap();
        socket.listener.accept().unwrap();
        socket.file.remove().unwrap();
        assert!(!path.exists());
    }
    let long = deep.join("c".repeat(LONGEST_NAME + 1));
    assert!(matches!(bind_private(&long).unwrap_err(), LocalSocketError::LongName));
    assert!(connect_to(&long, PATIENCE).is_err());
}

#[test]
fn missing_directories_and_missing_names_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let error = bind_private(&directory.path().join("missing/socket")).unwrap_err();
    assert!(matches!(error, LocalSocketError::Directory(_)) && !error.is_busy(), "{error}");
    assert!(matches!(bind_private(Path::new("/")).unwrap_err(), LocalSocketError::NoName));
    assert!(matches!(bind_private(&directory.path().join("..")).unwrap_err(), LocalSocketError::NoName));
}
