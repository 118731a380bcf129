//! What a bench is asked for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use super::peers::Peer;
use crate::trace::{TraceError, TraceReader};

/// Rounds in which every side is measured once.
pub const RUNS_DEFAULT: u32 = 3;
/// More would tell nothing more.
pub const RUNS_MAX: u32 = 100;

/// A bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchName {
    /// Look-ups: one by one, a hundred per call, over a stream, in a client's own table.
    Resolve,
    /// Invalidations of classes with many addresses.
    Invalidate,
    /// A directory of ten million registrations.
    Directory,
    /// Registrations, as fast as they are durable.
    Register,
    /// A sidecar that joins a cluster with a million registrations.
    Join,
    /// How long a bump takes until all sidecars have it.
    Converge,
    /// A trace through sidecars and memcached.
    Replay,
}

impl BenchName {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Resolve,
        Self::Invalidate,
        Self::Directory,
        Self::Register,
        Self::Join,
        Self::Converge,
        Self::Replay,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Invalidate => "invalidate",
            Self::Directory => "directory",
            Self::Register => "register",
            Self::Join => "join",
            Self::Converge => "converge",
            Self::Replay => "replay",
        }
    }

    /// What it measures, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Resolve => {
                "look-ups one by one, a hundred per call, over a stream, and in a local table"
            }
            Self::Invalidate => "invalidations of classes with many addresses",
            Self::Directory => "a directory of ten million: memory, disk, listings, kill -9",
            Self::Register => "durable registrations, at one sidecar and at one with two peers",
            Self::Join => "a sidecar joins three with a million registrations",
            Self::Converge => "a bump until all of 10 and of 50 sidecars have it",
            Self::Replay => "reads of a whole trace, through sidecars and memcached",
        }
    }

    /// Whether it has something that grows, and can draw it.
    pub fn draws(self) -> bool {
        matches!(self, Self::Converge | Self::Directory)
    }

    /// Whom it is held against.
    pub fn peers(self) -> &'static [Peer] {
        match self {
            Self::Resolve => &[Peer::Tonic, Peer::Redis, Peer::Memcached, Peer::HashMap],
            Self::Invalidate | Self::Directory | Self::Register | Self::Join => &[Peer::Redis],
            Self::Converge => &[Peer::Tcp, Peer::Serf, Peer::Chitchat],
            Self::Replay => &[Peer::Timeouts],
        }
    }
}

impl fmt::Display for BenchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no bench has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("bench: `{0}` is none of {names}", names = list(&BenchName::ALL))]
pub struct UnknownBench(String);

impl FromStr for BenchName {
    type Err = UnknownBench;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|bench| bench.as_str() == name)
            .ok_or_else(|| UnknownBench(name.to_owned()))
    }
}

/// What a bench is asked for.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each stands for a flag of the command line"
)]
pub struct BenchOptions {
    /// The executable that understands `sidecar` and `bench-peer`, usually this one.
    pub executable: PathBuf,
    /// How many bytes the calling thread has allocated so far, by the program's own allocator.
    pub allocated: fn() -> u64,
    /// The bench.
    pub name: BenchName,
    /// The trace that [`BenchName::Replay`] replays, xz-compressed; without it one is made.
    pub trace: Option<PathBuf>,
    /// [`BenchName::Converge`] with sidecars in a dozen regions.
    pub wan: bool,
    /// Where pictures of what grows are written, for the benches of [`BenchName::draws`].
    pub plot: Option<PathBuf>,
    /// The only peers that are wanted, by name; empty for all of the bench's, and `none` alone for none.
    pub vs: Vec<String>,
    /// Rounds, 1 to [`RUNS_MAX`].
    pub runs: u32,
    /// Little work: shows that the bench works, and its figures mean nothing.
    pub short: bool,
    /// One line of JSON in place of a table.
    pub json: bool,
    /// Whether progress is shown on standard error.
    pub progress: bool,
}

/// In place of a peer: nobody.
const NOBODY: &str = "none";

impl BenchOptions {
    /// Tells what cannot be had.
    pub fn check(&self) -> Result<(), OptionsError> {
        if !(1..=RUNS_MAX).contains(&self.runs) {
            return Err(OptionsError::Runs(self.runs));
        }
        if let Some(path) = &self.trace {
            if self.name != BenchName::Replay {
                return Err(OptionsError::Only {
                    flag: "--trace",
                    only: BenchName::Replay,
                    bench: self.name,
                });
            }
            // Before anything is started for it.
            TraceReader::open(path, Some(1))?.next().transpose()?;
        }
        if self.wan && self.name != BenchName::Converge {
            return Err(OptionsError::Only {
                flag: "--wan",
                only: BenchName::Converge,
                bench: self.name,
            });
        }
        if self.plot.is_some() && !self.name.draws() {
            return Err(OptionsError::Draws { bench: self.name });
        }
        if self.plot.is_some() && self.wan {
            return Err(OptionsError::PlotWan);
        }
        for name in &self.vs {
            let known = self.peers().iter().any(|peer| peer.as_str() == name);
            if name == NOBODY && self.vs.len() > 1 {
                return Err(OptionsError::NobodyBeside);
            }
            if !known && name != NOBODY {
                return Err(OptionsError::Peer {
                    peer: name.clone(),
                    bench: self.name,
                    peers: self.peers(),
                });
            }
        }
        Ok(())
    }

    fn peers(&self) -> &'static [Peer] {
        if self.wan {
            &[Peer::Delay]
        } else {
            self.name.peers()
        }
    }

    /// Whether a peer is to be measured.
    pub(super) fn wants(&self, peer: Peer) -> bool {
        self.vs.is_empty() || self.vs.iter().any(|name| peer.as_str() == name)
    }
}

/// Options that cannot be had.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// The number of rounds.
    #[error("--runs: {0} is not between 1 and {RUNS_MAX}")]
    Runs(u32),
    /// A flag of another bench.
    #[error("{flag}: `{bench}` has none; it is for `{only}`")]
    Only {
        /// What was asked for.
        flag: &'static str,
        /// The bench that has it.
        only: BenchName,
        /// The bench.
        bench: BenchName,
    },
    /// A picture of a bench that draws none.
    #[error(
        "--plot: `{bench}` draws nothing; these do: {names}",
        names = list(&drawing())
    )]
    Draws {
        /// The bench.
        bench: BenchName,
    },
    /// A picture of regions.
    #[error("--plot: nothing grows with --wan; leave one of them out")]
    PlotWan,
    /// A trace that cannot be read.
    #[error("--trace: {0}")]
    Trace(#[from] TraceError),
    /// Nobody, and somebody.
    #[error("--vs: `{NOBODY}` does not go together with other peers")]
    NobodyBeside,
    /// A peer that the bench has not.
    #[error(
        "--vs: `{peer}` is no peer of `{bench}`; it has {peers}, or `{NOBODY}` alone",
        peers = list(peers)
    )]
    Peer {
        /// What was asked for.
        peer: String,
        /// The bench.
        bench: BenchName,
        /// Those that it has.
        peers: &'static [Peer],
    },
}

fn drawing() -> Vec<BenchName> {
    let all = BenchName::ALL.into_iter();
    all.filter(|bench| bench.draws()).collect()
}

fn list(names: &[impl fmt::Display]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::synthetic;
    use super::*;

    fn options(vs: &[&str], runs: u32) -> BenchOptions {
        BenchOptions {
            executable: "x".into(),
            allocated: || 0,
            name: BenchName::Resolve,
            trace: None,
            wan: false,
            plot: None,
            vs: vs.iter().map(|&name| name.to_owned()).collect(),
            runs,
            short: true,
            json: false,
            progress: false,
        }
    }

    #[test]
    fn benches_have_names() {
        for bench in BenchName::ALL {
            assert_eq!(bench.as_str().parse::<BenchName>().unwrap(), bench);
            assert!(!bench.peers().is_empty() && !bench.about().is_empty());
        }
        let error = "speed".parse::<BenchName>().unwrap_err().to_string();
        assert!(
            error.contains("`speed`") && error.contains("resolve"),
            "{error}"
        );
    }

    #[test]
    fn peers_are_those_of_the_bench() {
        let all = options(&[], 1);
        assert!(all.check().is_ok() && all.wants(Peer::Redis) && all.wants(Peer::Tonic));
        let one = options(&["redis"], 1);
        assert!(one.check().is_ok() && one.wants(Peer::Redis) && !one.wants(Peer::Tonic));
        let nobody = options(&["none"], 1);
        assert!(nobody.check().is_ok() && !nobody.wants(Peer::Redis));
        let error = options(&["none", "redis"], 1).check().unwrap_err();
        assert!(matches!(error, OptionsError::NobodyBeside), "{error}");
        let error = options(&["varnish"], 1).check().unwrap_err().to_string();
        assert!(
            error.contains("varnish") && error.contains("tonic, redis, memcached"),
            "{error}"
        );
    }

    #[test]
    fn a_trace_is_for_its_bench_and_must_be_there() {
        let mut options = options(&[], 1);
        options.trace = Some("absent.xz".into());
        let error = options.check().unwrap_err().to_string();
        assert_eq!(error, "--trace: `resolve` has none; it is for `replay`");
        options.name = BenchName::Replay;
        let error = options.check().unwrap_err().to_string();
        assert!(error.starts_with("--trace: trace absent.xz: "), "{error}");
        options.trace = Some(std::env::current_exe().unwrap());
        let error = options.check().unwrap_err().to_string();
        assert!(
            error.ends_with("not an xz file (it does not begin with the xz magic bytes)"),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace.xz");
        synthetic::write(&path, 2).unwrap();
        options.trace = Some(path);
        assert!(options.check().is_ok());
    }

    #[test]
    fn regions_are_for_converge_and_have_a_peer_of_their_own() {
        let mut options = options(&["delay"], 1);
        options.wan = true;
        let error = options.check().unwrap_err().to_string();
        assert_eq!(error, "--wan: `resolve` has none; it is for `converge`");
        options.name = BenchName::Converge;
        assert!(options.check().is_ok());
        options.wan = false;
        let error = options.check().unwrap_err().to_string();
        assert!(
            error.contains("`delay`") && error.contains("it has tcp"),
            "{error}"
        );
    }

    #[test]
    fn only_what_grows_is_drawn() {
        let mut options = options(&[], 1);
        options.plot = Some("dir".into());
        let error = options.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "--plot: `resolve` draws nothing; these do: directory, converge"
        );
        options.name = BenchName::Converge;
        assert!(options.check().is_ok());
        options.wan = true;
        let error = options.check().unwrap_err();
        assert!(matches!(error, OptionsError::PlotWan), "{error}");
    }

    #[test]
    fn rounds_are_bounded() {
        for runs in [0, RUNS_MAX + 1] {
            let error = options(&[], runs).check().unwrap_err().to_string();
            assert!(
                error.contains(&runs.to_string()) && error.contains("100"),
                "{error}"
            );
        }
    }
}
