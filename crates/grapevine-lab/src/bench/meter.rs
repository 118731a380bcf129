//! What a stretch of work took: by the clock, and of a core in the server that did it. On a machine that others use the latter says more.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::figure::Figure;
use crate::process::cpu_time;

/// A stretch that has begun.
pub(super) struct Meter {
    server: u32,
    cpu_before: Duration,
    begun: Instant,
}

/// One that is over.
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    cpu: Duration,
}

impl Meter {
    /// Begins; `server` is the process that does the work.
    pub(super) fn begin(server: u32) -> anyhow::Result<Self> {
        Ok(Self {
            server,
            cpu_before: server_cpu(server)?,
            begun: Instant::now(),
        })
    }

    pub(super) fn end(self) -> anyhow::Result<Measured> {
        let elapsed = self.begun.elapsed();
        let cpu = server_cpu(self.server)?.saturating_sub(self.cpu_before);
        Ok(Measured { elapsed, cpu })
    }
}

impl Measured {
    /// The rate of so many, and the server's time on a core for one of them.
    pub(super) fn rate(
        &self,
        (rate, cpu): (&'static str, &'static str),
        count: usize,
    ) -> [Figure; 2] {
        [
            Figure::rate(rate, count as u64, self.elapsed),
            self.cpu_each(cpu, count),
        ]
    }

    /// The server's time on a core for one of so many.
    pub(super) fn cpu_each(&self, what: &'static str, count: usize) -> Figure {
        Figure::cpu_each(what, self.cpu, count as u64)
    }
}

fn server_cpu(server: u32) -> anyhow::Result<Duration> {
    cpu_time(server).context("the server's time on a core")
}
