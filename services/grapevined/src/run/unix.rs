//! The Unix socket: who may connect is a matter of its file's mode, and whoever may write to it may.
//!
//! Two starts at once over a file that a dead process left would each take it for stale, and the second would remove the socket that the first
//! has just made. So a sidecar has a lock beside its socket, `<path>.lock`, from before it looks at the path until it ends; the system gives it
//! up for a process that dies. Whoever has it may replace a stale file, and removes its own when it ends. Others than sidecars
//! know nothing of the lock: what they put there is looked at before, and left alone.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FileType, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::config::FileMode;

/// As many may wait to be accepted as tokio lets wait at its own.
const BACKLOG: i32 = 1_024;
/// How often a lock's file may be gone once it is locked: each time another process has ended meanwhile.
const LOCKS_GONE_MAX: usize = 100;

/// The right to a socket's path. When it is dropped the socket's file is removed, if it is still the one that was made.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    file: FileId,
    _lock: Lock,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whatever else stands there by now is somebody else's. Where it cannot be removed it is stale, as if this process had died.
        if FileId::at(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let (device, inode) = (metadata.dev(), metadata.ino());
        Self { device, inode }
    }

    fn at(path: &Path) -> io::Result<Self> {
        std::fs::symlink_metadata(path).map(|metadata| Self::of(&metadata))
    }
}

/// A file that only one process at a time has locked.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// The lock of a socket's path. Where another process has it the address is in use.
    fn take(socket: &Path) -> io::Result<Self> {
        let mut path = OsString::from(socket);
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..LOCKS_GONE_MAX {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // Who may open it could keep sidecars from starting.
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
            let file = File::from(file);
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Who had it before removes it: then the next one would lock another file of this name.
            let locked = FileId::of(&file.metadata()?);
            if FileId::at(&path).is_ok_and(|there| there == locked) {
                return Ok(Self { path, file });
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: nobody else has this file.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// Binds a Unix socket; a socket file that nobody answers on is one that a dead process left. Without a mode it has what the
/// process's umask leaves. An error that says of an address that it is in use may be over soon: another sidecar ends.
pub(super) async fn bind(
    path: &Path,
    mode: Option<FileMode>,
) -> anyhow::Result<(UnixListener, Held)> {
    let shown = path.display();
    let lock = Lock::take(path).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => format!("app.unix: {shown} is in use by another process"),
            _ => format!("app.unix: cannot lock {shown}.lock"),
        };
        anyhow::Error::new(error).context(why)
    })?;
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
    let (listener, file) = listen(path, mode).with_context(|| {
        let with_mode = mode.map(|mode| format!(" with app.unix_mode = {mode}"));
        let with_mode = with_mode.unwrap_or_default();
        format!("app.unix: cannot listen on {shown}{with_mode}")
    })?;
    let held = Held {
        path: path.to_owned(),
        file,
        _lock: lock,
    };
    Ok((listener, held))
}

/// Makes the file of a socket, with no right that a mode does not give: it gets the mode that the socket has by then, but for
/// what the umask takes, which is the whole process's.
fn make(path: &Path, mode: Option<Mode>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        rustix::fs::fchmod(&socket, mode)?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Listens on one that has a mode, if one is given, and at no time a wider one; and which file it is.
fn listen(path: &Path, mode: Option<FileMode>) -> io::Result<(UnixListener, FileId)> {
    let mode = mode.map(|mode| Mode::from_raw_mode(mode.bits()));
    let socket = make(path, mode)?;
    // What stands there now, and no link that somebody with rights to the directory put there meanwhile.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("it was replaced"));
    }
    if let Some(mode) = mode
        && Mode::from_raw_mode(stat.st_mode) != mode
    {
        // A descriptor of this kind has no other way to it.
        rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
    }
    let id = FileId::of(&File::from(file).metadata()?);
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
    Ok((listener, id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Gid, Uid, geteuid};
    use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

    use super::*;

    const SOON: std::time::Duration = std::time::Duration::from_secs(30);
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
            let _bound = bind(&path, Some(mode(text))).await.unwrap();
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
            let _socket = make(&path, Some(Mode::from_raw_mode(bits))).unwrap();
            let made = mode_of(&path);
            assert_eq!(made & !bits, 0, "{made:o} for {bits:o}");
        }
    }

    /// The file of a process that died.
    fn leave_stale(path: &Path) {
        let _ = std::fs::remove_file(path);
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }

    fn names(place: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(place).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app.sock");
        let wanted = Some(mode("0600"));
        leave_stale(&path);
        let bound = bind(&path, wanted).await.unwrap();
        assert_eq!(mode_of(&path), 0o600);
        let error = bind(&path, wanted).await.unwrap_err();
        let in_use = error.downcast_ref::<io::Error>().unwrap().kind();
        assert_eq!(in_use, ErrorKind::AddrInUse, "{error:#}");
        let error = error.to_string();
        assert!(error.contains("in use by another process"), "{error}");
        drop(bound);
        // One that knows nothing of locks.
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = bind(&path, wanted).await.unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        assert_eq!(names(place.path()), ["app.sock"]);
        let nowhere = place.path().join("missing/app.sock");
        let error = format!("{:#}", bind(&nowhere, wanted).await.unwrap_err());
        assert!(
            error.contains("app.sock") && error.contains("No such file"),
            "{error}"
        );
        let long = place.path().join("n".repeat(200));
        let error = bind(&long, wanted).await.unwrap_err().to_string();
        assert!(error.contains("with app.unix_mode = 0600"), "{error}");
    }

    #[test]
    fn of_several_starts_at_once_one_has_the_socket_and_keeps_it() {
        const STARTS: usize = 8;
        const ROUNDS: usize = 200;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app.sock");
        let barrier = std::sync::Barrier::new(STARTS);
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                barrier.wait();
                let bound = bind(&path, Some(mode("0600"))).await;
                // Nobody ends before all have tried.
                barrier.wait();
                let (listener, _held) = bound.ok()?;
                UnixStream::connect(&path).unwrap();
                let accepted = tokio::time::timeout(SOON, listener.accept()).await;
                Some(accepted.is_ok())
            })
        };
        for round in 0..ROUNDS {
            leave_stale(&path);
            let heard: Vec<bool> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
                let ended = starts.into_iter().map(|start| start.join().unwrap());
                ended.flatten().collect()
            });
            assert_eq!(heard, [true], "round {round}");
            assert!(names(place.path()).is_empty(), "round {round}");
        }
    }

    #[test]
    fn two_never_have_the_lock_while_others_take_it_and_give_it_up() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app.sock");
        let (holders, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let Ok(_lock) = Lock::take(&path) else {
                            continue;
                        };
                        taken.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 100);
        assert!(names(place.path()).is_empty());
    }

    #[tokio::test]
    async fn a_sidecar_that_ends_removes_its_own_socket_and_no_others() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app.sock");
        for wanted in [None, Some(mode("0600"))] {
            drop(bind(&path, wanted).await.unwrap());
            assert!(names(place.path()).is_empty());
            let bound = bind(&path, wanted).await.unwrap();
            // Somebody puts another one in its place.
            let other = place.path().join("other.sock");
            let listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
            std::fs::rename(&other, &path).unwrap();
            drop(bound);
            assert_eq!(names(place.path()), ["app.sock"]);
            UnixStream::connect(&path).unwrap();
            drop(listener);
            std::fs::remove_file(&path).unwrap();
        }
        // Its lock is no other file.
        let precious = place.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, place.path().join("app.sock.lock")).unwrap();
        let error = bind(&path, None).await.unwrap_err().to_string();
        assert!(
            error.contains("cannot lock ") && error.contains("app.sock.lock"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    }
}
