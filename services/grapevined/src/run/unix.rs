//! The Unix socket: who may connect is a matter of its file's mode, and whoever may write to it may.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{FileType, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::config::FileMode;

/// As many may wait to be accepted as tokio lets wait at its own.
const BACKLOG: i32 = 1_024;

/// Binds a Unix socket; a socket file that nobody answers on is one that a dead process left. Without a mode it has what the
/// process's umask leaves.
pub(super) async fn bind(path: &Path, mode: Option<FileMode>) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        anyhow::ensure!(
            metadata.file_type().is_socket(),
            "app.unix: {shown} exists and is not a socket"
        );
        match tokio::net::UnixStream::connect(path).await {
            Ok(_) => anyhow::bail!("app.unix: {shown} is in use by another process"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)
                    .with_context(|| format!("app.unix: cannot replace {shown}"))?;
            }
            // Somebody removed it just now.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // No permission, too many waiting: it may well be alive.
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("app.unix: cannot tell whether {shown} is in use"));
            }
        }
    }
    let Some(mode) = mode else {
        return UnixListener::bind(path)
            .with_context(|| format!("app.unix: cannot listen on {shown}"));
    };
    bind_with(path, mode)
        .with_context(|| format!("app.unix: cannot listen on {shown} with app.unix_mode = {mode}"))
}

/// Makes the file of a socket, with no right that the mode does not give: it gets the mode that the socket has by then, but for
/// what the umask takes, which is the whole process's.
fn make(path: &Path, mode: Mode) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    rustix::fs::fchmod(&socket, mode)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Binds one that has a mode, and at no time a wider one.
fn bind_with(path: &Path, mode: FileMode) -> io::Result<UnixListener> {
    let wanted = Mode::from_raw_mode(mode.bits());
    let socket = make(path, wanted)?;
    // What stands there now, and no link that somebody with rights to the directory put there meanwhile.
    let file = rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("it was replaced"));
    }
    if Mode::from_raw_mode(stat.st_mode) != wanted {
        // A descriptor of this kind has no other way to it.
        rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), wanted)?;
    }
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use rustix::process::{Gid, Uid, geteuid};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

    use super::*;

    /// A user and a group that are nobody's.
    const OTHER: u32 = 61_234;

    fn mode(text: &str) -> FileMode {
        let variables = [("GRAPEVINE_APP_UNIX_MODE".into(), text.into())];
        let loaded = crate::config::load(None, variables).unwrap();
        loaded.config.app.unix_mode.unwrap()
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Connects as another user, of a group.
    fn connect_as_other(path: &Path, group: u32) -> io::Result<()> {
        std::thread::scope(|scope| {
            // Linux keeps both for each thread; nothing else runs on this one.
            let other = scope.spawn(|| {
                set_thread_groups(&[]).unwrap();
                set_thread_gid(Gid::from_raw(group)).unwrap();
                set_thread_uid(Uid::from_raw(OTHER)).unwrap();
                UnixStream::connect(path).map(drop)
            });
            other.join().unwrap()
        })
    }

    #[tokio::test]
    async fn a_socket_has_the_mode_that_was_asked_for_and_lets_in_whom_it_says() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let root = geteuid().is_root();
        if !root {
            eprintln!("SKIPPED in part: only root can connect as another user");
        }
        let own = rustix::process::getegid().as_raw();
        for (text, group, others) in [
            ("0600", false, false),
            ("0660", true, false),
            ("666", true, true),
            ("0777", true, true),
        ] {
            let path = place.path().join(text);
            let _listener = bind(&path, Some(mode(text))).await.unwrap();
            assert_eq!(mode_of(&path), mode(text).bits());
            UnixStream::connect(&path).unwrap();
            if root {
                for (whose, let_in) in [(own, group), (OTHER, others)] {
                    let connected = connect_as_other(&path, whose);
                    assert_eq!(connected.is_ok(), let_in, "{text}: {connected:?}");
                }
            }
        }
    }

    #[test]
    fn a_socket_is_made_with_no_more_than_its_mode() {
        let place = tempfile::tempdir().unwrap();
        for bits in [0o600, 0o640, 0o662] {
            let path = place.path().join(format!("{bits:o}"));
            let _socket = make(&path, Mode::from_raw_mode(bits)).unwrap();
            let made = mode_of(&path);
            assert_eq!(made & !bits, 0, "{made:o} for {bits:o}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app.sock");
        let wanted = Some(mode("0600"));
        drop(bind(&path, Some(mode("0666"))).await.unwrap());
        let _listener = bind(&path, wanted).await.unwrap();
        assert_eq!(mode_of(&path), 0o600);
        let error = bind(&path, wanted).await.unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        let nowhere = place.path().join("missing/app.sock");
        let error = bind(&nowhere, wanted).await.unwrap_err().to_string();
        assert!(error.contains("with app.unix_mode = 0600"), "{error}");
    }
}
