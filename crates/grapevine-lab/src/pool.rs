//! Connections to an SQLite file, for the databases of the lab.
//!
//! The file is in WAL mode: readers never wait for the writer. A pool has a fixed number of connections; a call that finds none
//! free waits its turn. Every call runs on the runtime's threads for blocking work.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A fixed number of connections.
pub struct Pool {
    idle: Mutex<Vec<Connection>>,
    /// As many permits as there are idle connections; callers queue here, in order.
    permits: Semaphore,
}

/// A connection that goes back to its pool even when its user panics.
struct Lent {
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

impl Pool {
    /// A pool of these connections.
    pub fn new(connections: Vec<Connection>) -> Self {
        let permits = Semaphore::new(connections.len());
        Self {
            idle: Mutex::new(connections),
            permits,
        }
    }

    /// Does the work with a connection, once one is free. Work that has begun is done, even if its caller is dropped.
    pub async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> T {
        let permit = self
            .permits
            .acquire()
            .await
            .expect("invariant: the semaphore is never closed");
        // Given back by `Lent`, not here: a caller that is dropped leaves the work running on its connection.
        permit.forget();
        let connection = self.idle.lock().pop();
        let mut lent = Lent {
            pool: Arc::clone(self),
            connection,
        };
        blocking(move || {
            let connection = lent.connection.as_mut();
            work(connection.expect("invariant: a permit stands for an idle connection"))
        })
        .await
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.idle.lock().extend(self.connection.take());
        self.pool.permits.add_permits(1);
    }
}

/// Does work that blocks, on a thread for it. A panic of the work is its caller's.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("invariant: blocking work that has begun is not cancelled"),
        },
    }
}

/// Opens a file, which is made if it is not there.
pub fn open(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // The lab kills sidecars, not the machine: a commit need not reach the disk, only other connections.
    connection.pragma_update(None, "synchronous", "OFF")?;
    Ok(connection)
}
