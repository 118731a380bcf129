//! Failures inside the engine, contained and remembered.
//!
//! sled can panic over a directory that a bad stop left behind. Where panics unwind, [`Guard::run`] turns one into
//! an error. Where they abort the process there is nothing to turn; but the panic hook runs before, and leaves a file
//! in the store's directory that tells the next start. `failed-opening`: opening panicked, so do not try again, set
//! the directory aside. `failed-running`: a read or a commit did, or met what does not read back, so check
//! everything before serving. A kill leaves neither: it says nothing about the data. A panic at opening whose text tells
//! that the machine lacked something, as a thread that could not be started, leaves none either: the files are not at fault.
//! One of a running engine does, whatever it lacked: nobody knows what it left half-done, and a check costs only time.
//!
//! After the first failure of a running engine nothing is read or written any more ([`Guard::failed`]): what it holds,
//! in memory and on disk, is not known. That goes for a panic in one of the engine's own threads, too. They are known by
//! their names and not by their store, so that one fails every store of the process; a sidecar has one.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError, Weak};

use crate::StoreError;
use crate::error::tells_of_lack;

/// What is being done in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Running,
}

impl Phase {
    const ALL: [Self; 2] = [Self::Opening, Self::Running];

    fn file_name(self) -> &'static str {
        match self {
            Self::Opening => "failed-opening",
            Self::Running => "failed-running",
        }
    }
}

thread_local! {
    /// Where a panic of this thread is to be noted; `None` outside the engine.
    static INSIDE: RefCell<Option<Arc<Path>>> = const { RefCell::new(None) };
}

/// The stores that are open, for panics of threads that say for none of them that they are its own.
static OPEN: Mutex<Vec<Weak<Failure>>> = Mutex::new(Vec::new());

/// How the engine names its threads.
fn is_engines(thread: &str) -> bool {
    thread == "log flusher" || thread.starts_with("sled-io-")
}

/// The first failure of a running engine.
#[derive(Debug)]
struct Failure {
    /// Where damage is noted for the next start.
    note: Arc<Path>,
    cause: OnceLock<String>,
}

/// Contains the engine's failures on behalf of one store directory.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    directory: PathBuf,
    failure: Arc<Failure>,
}

impl Guard {
    pub(crate) fn new(directory: &Path) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let earlier = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                note(info);
                earlier(info);
            }));
        });
        let failure = Arc::new(Failure {
            note: directory.join(Phase::Running.file_name()).into(),
            cause: OnceLock::new(),
        });
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|store| store.strong_count() > 0);
        open.push(Arc::downgrade(&failure));
        Self {
            directory: directory.to_owned(),
            failure,
        }
    }

    /// How the running engine failed first, if it did.
    pub(crate) fn failed(&self) -> Option<&str> {
        self.failure.cause.get().map(String::as_str)
    }

    /// Lets nothing more be read or written.
    pub(crate) fn fail(&self, error: &StoreError) {
        if self.failure.cause.set(error.to_string()).is_ok() {
            tracing::error!(
                store = %self.directory.display(),
                %error,
                "the store failed: nothing is read or written until it is opened anew"
            );
        }
        if error.is_damage() {
            write_note(&self.failure.note, &error.to_string());
        }
    }

    /// Has the next start check everything: what failed may have left a part of itself in the engine's files.
    pub(crate) fn doubt(&self, error: &StoreError) {
        write_note(&self.failure.note, &error.to_string());
    }

    /// Runs something in the engine.
    pub(crate) fn run<T>(
        &self,
        phase: Phase,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let file = match phase {
            Phase::Opening => self.directory.join(phase.file_name()).into(),
            Phase::Running => Arc::clone(&self.failure.note),
        };
        INSIDE.set(Some(file));
        // Nothing that the engine left half-done is used again: the store refuses everything from here on.
        let result = panic::catch_unwind(AssertUnwindSafe(work));
        INSIDE.set(None);
        let result = result.unwrap_or_else(|payload| Err(self.panicked(phase, message(&*payload))));
        if let Err(error) = &result
            && phase == Phase::Running
            && !error.is_callers()
        {
            self.fail(error);
        }
        result
    }

    fn panicked(&self, phase: Phase, text: String) -> StoreError {
        if !tells_of_lack(&text) {
            return StoreError::Panicked(text);
        }
        let text = format!("the machine lacks what the storage engine needs: {text}");
        let source = std::io::Error::other(text);
        match phase {
            Phase::Opening => StoreError::Unusable {
                path: self.directory.clone(),
                source,
            },
            Phase::Running => StoreError::Io(source),
        }
    }

    /// What an earlier run noted.
    pub(crate) fn note(&self, phase: Phase) -> Option<String> {
        std::fs::read(self.directory.join(phase.file_name()))
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Forgets the notes: they were acted upon.
    pub(crate) fn forget(&self) {
        for phase in Phase::ALL {
            self.forget_one(phase);
        }
    }

    /// Forgets a note that turned out to be about something else than the data, or was acted upon.
    pub(crate) fn forget_one(&self, phase: Phase) {
        let file = self.directory.join(phase.file_name());
        if let Err(error) = std::fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "cannot remove the note of an earlier failure");
        }
    }
}

fn note(info: &PanicHookInfo<'_>) {
    let text = info.to_string();
    let file = INSIDE.try_with(|inside| inside.try_borrow().ok().and_then(|inside| inside.clone()));
    if let Ok(Some(file)) = file {
        let opening = file.ends_with(Phase::Opening.file_name());
        if !(opening && tells_of_lack(&text)) {
            write_note(&file, &text);
        }
    }
    let thread = std::thread::current();
    if let Some(name) = thread.name().filter(|name| is_engines(name)) {
        let cause = format!("the storage engine's thread {name:?} panicked: {info}");
        // Not waited for: this thread may be the one that holds it.
        for failure in OPEN.try_lock().iter().flat_map(|open| open.iter()) {
            if let Some(failure) = failure.upgrade() {
                write_note(&failure.note, &cause);
                let _ = failure.cause.set(cause.clone());
            }
        }
    }
}

fn write_note(file: &Path, text: &str) {
    if let Err(error) = std::fs::write(file, text) {
        tracing::error!(file = %file.display(), %error, text, "cannot note a failure of the storage engine");
    }
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_a_note() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        let error = guard
            .run::<()>(Phase::Opening, || panic!("a page is missing"))
            .unwrap_err();
        assert!(matches!(&error, StoreError::Panicked(why) if why == "a page is missing"));
        assert!(
            guard
                .note(Phase::Opening)
                .unwrap()
                .contains("a page is missing")
        );
        assert_eq!(guard.note(Phase::Running), None);
        guard.forget();
        assert_eq!(guard.note(Phase::Opening), None);
    }

    #[test]
    fn g1_a_panic_over_something_lacking_is_no_damage_and_a_running_engine_is_checked_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        let lacking = || Err::<(), _>(std::io::Error::from_raw_os_error(11));
        let unwraps = || {
            lacking().expect("a thread");
            Ok(())
        };
        let opening = guard.run(Phase::Opening, unwraps).unwrap_err();
        let told = matches!(&opening, StoreError::Unusable { source, .. } if source.to_string().contains("lacks"));
        assert!(told, "{opening:?}");
        assert_eq!(guard.failed(), None);
        assert_eq!(guard.note(Phase::Opening), None);
        let running = guard.run(Phase::Running, unwraps).unwrap_err();
        assert!(matches!(running, StoreError::Io(_)), "{running:?}");
        assert!(guard.failed().unwrap().contains("lacks"));
        assert_eq!(guard.note(Phase::Opening), None);
        assert!(guard.note(Phase::Running).is_some(), "nothing is checked");
    }

    #[test]
    fn what_does_not_read_back_is_noted_and_an_error_of_the_disk_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        let full = || Err(StoreError::Full(std::io::ErrorKind::StorageFull.into()));
        assert!(guard.run::<()>(Phase::Running, full).is_err());
        assert_eq!(guard.note(Phase::Running), None);
        assert!(guard.failed().unwrap().contains("full"));
        let corrupt = || Err(StoreError::Corrupt("a page".to_owned()));
        assert!(guard.run::<()>(Phase::Running, corrupt).is_err());
        assert!(guard.note(Phase::Running).is_some());
        assert!(
            guard.failed().unwrap().contains("full"),
            "the first is told"
        );
    }

    #[test]
    fn what_a_caller_did_wrong_fails_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        let bad = || Err(StoreError::BadCursor);
        assert!(guard.run::<()>(Phase::Running, bad).is_err());
        assert_eq!(guard.failed(), None);
    }

    #[test]
    fn a_panic_elsewhere_leaves_no_note() {
        let directory = tempfile::tempdir().unwrap();
        let guard = Guard::new(directory.path());
        guard.run(Phase::Running, || Ok(())).unwrap();
        assert!(panic::catch_unwind(|| panic!("elsewhere")).is_err());
        assert_eq!(guard.note(Phase::Running), None);
    }
}
