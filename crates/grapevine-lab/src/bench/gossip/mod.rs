//! Clusters that spread a change by gossip alone: Serf's user events, and chitchat as it comes.
//!
//! Each member is a process that writes a line when it has met another member and a line when it has a change. A round starts a
//! cluster, waits until all have met all, makes one change after the other, each at the next member, and ends the cluster: what
//! gossips all the time would otherwise take part in what the other sides are measured at. The time runs from the line of the
//! member where a change is made to that of the last one.

mod chitchat;
mod serf;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncBufReadExt, BufReader};

pub(super) use self::chitchat::Chitchat;
pub use self::chitchat::serve;
pub(super) use self::serf::Serf;
use crate::process::{Piped, command_line, tail};

/// Between two changes: the last one is nobody's news any more then.
const PAUSE: Duration = Duration::from_millis(50);
/// What takes longer has not come, be it a change or a member. Whom gossip has passed by hears of it when Serf's agents compare all that
/// they have with one another, each with one at a time: every thirty seconds, and every minute among more than 32.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a line of a member tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bench) enum Told {
    /// It has met this one.
    Met(String),
    /// It has this change.
    Has(usize),
}

/// How a kind of cluster is run.
pub(super) trait Kind: Clone + Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;

    /// How many members it has.
    fn members(&self) -> usize;

    /// The program that each of them runs.
    fn program(&self) -> &Path;

    /// What one of them is told.
    fn arguments(&self, at: usize) -> Vec<String>;

    /// What a line of one tells.
    fn told(line: &str) -> Option<Told>;

    /// Makes a change at one.
    fn change(
        &self,
        at: usize,
        member: &mut Piped,
        number: usize,
    ) -> impl Future<Output = anyhow::Result<()>>;
}

/// How one of a kind is started, and how many others there are.
pub(super) fn command(kind: &impl Kind) -> String {
    let first = command_line(kind.program(), &kind.arguments(0));
    format!("{first}, and {} more", kind.members() - 1)
}

/// Has a cluster spread so many changes; tells how long each took until all had it.
pub(super) async fn spread<K: Kind>(kind: K, count: usize) -> anyhow::Result<Vec<Duration>> {
    let dir = tempfile::Builder::new().prefix("grapevine-").tempdir()?;
    let mut members = Vec::with_capacity(kind.members());
    let mut lines = SelectAll::new();
    for at in 0..kind.members() {
        let log = dir.path().join(format!("{}-{at}.log", K::NAME));
        let mut member = Piped::start(K::NAME, kind.program(), &kind.arguments(at), &log)?;
        lines.push(told::<K>(at, &mut member, log)?);
        members.push(member);
    }
    let met = tokio::time::timeout(PATIENCE, all_meet::<K>(&mut lines, members.len()));
    met.await
        .with_context(|| format!("{}: not all had met after {PATIENCE:?}", K::NAME))??;
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        tokio::time::sleep(PAUSE).await;
        let at = number % members.len();
        let all = members.len();
        let had = tokio::time::timeout(PATIENCE, all_have::<K>(&mut lines, all, number));
        let (made, had) = tokio::join!(kind.change(at, &mut members[at], number), had);
        made.with_context(|| K::NAME)?;
        times.push(had.with_context(|| {
            format!(
                "{}: not all of {all} had a change after {PATIENCE:?}",
                K::NAME
            )
        })??);
    }
    Ok(times)
}

type Lines = SelectAll<BoxStream<'static, anyhow::Result<(usize, Told)>>>;

/// What a member tells, line by line.
fn told<K: Kind>(
    at: usize,
    member: &mut Piped,
    log: PathBuf,
) -> anyhow::Result<BoxStream<'static, anyhow::Result<(usize, Told)>>> {
    let output = member.output.take().context(K::NAME)?;
    let lines = BufReader::new(output).lines();
    let lines = futures::stream::try_unfold(lines, async |mut lines| {
        let line = lines.next_line().await?;
        anyhow::Ok(line.map(|line| (line, lines)))
    });
    let told = lines
        .try_filter_map(move |line| std::future::ready(Ok(K::told(&line).map(|told| (at, told)))));
    let ended = futures::stream::once(async move {
        let words = tail(&log);
        bail!(
            "{}: member {at} has ended; its last words:\n{words}",
            K::NAME
        )
    });
    Ok(told.chain(ended).boxed())
}

async fn next<K: Kind>(lines: &mut Lines) -> anyhow::Result<(usize, Told)> {
    lines.next().await.context(K::NAME)?
}

/// Waits until each of so many members has met all, itself among them.
async fn all_meet<K: Kind>(lines: &mut Lines, members: usize) -> anyhow::Result<()> {
    let mut met = BTreeSet::new();
    while met.len() < members * members {
        match next::<K>(lines).await? {
            (at, Told::Met(other)) => drop(met.insert((at, other))),
            (at, Told::Has(number)) => bail!("{}: {at} has {number}, which nobody made", K::NAME),
        }
    }
    Ok(())
}

/// Waits until each of so many members has told of one change, once, and no other; tells how long it took.
async fn all_have<K: Kind>(
    lines: &mut Lines,
    members: usize,
    number: usize,
) -> anyhow::Result<Duration> {
    let (mut had, mut first) = (BTreeSet::new(), None);
    loop {
        let (at, told) = next::<K>(lines).await?;
        let now = Instant::now();
        // Who was suspected for a moment is met again.
        if let Told::Has(other) = told {
            ensure!(
                other == number && had.insert(at),
                "{}: {at} has {other} when {number} was made",
                K::NAME
            );
            let first = *first.get_or_insert(now);
            if had.len() == members {
                return Ok(now - first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// So many members, each of which has only what is made at it.
    #[derive(Clone)]
    struct Sample(usize);

    impl Kind for Sample {
        const NAME: &'static str = "sample";

        fn members(&self) -> usize {
            self.0
        }

        fn program(&self) -> &Path {
            Path::new("/bin/sh")
        }

        fn arguments(&self, _: usize) -> Vec<String> {
            // Each has met both, and has what it is told.
            let meet = ["echo met a", "echo met b"][..self.0].join("; ");
            let script = format!("{meet}; echo whatever; while read n; do echo has $n; done");
            vec!["-c".to_owned(), script]
        }

        fn told(line: &str) -> Option<Told> {
            chitchat::told(line)
        }

        async fn change(&self, _: usize, member: &mut Piped, number: usize) -> anyhow::Result<()> {
            chitchat::write(member, number).await
        }
    }

    #[tokio::test]
    async fn what_not_all_have_is_not_taken_for_spread() {
        // Each change reaches the member where it is made and no other.
        let spread = tokio::time::timeout(Duration::from_millis(500), spread(Sample(2), 1)).await;
        assert!(spread.is_err(), "{spread:?}");
    }

    #[tokio::test]
    async fn what_all_have_is_spread() {
        let times = spread(Sample(1), 3).await.unwrap();
        assert_eq!(times.len(), 3);
    }

    #[tokio::test]
    async fn a_change_twice_and_a_member_that_ends_are_errors() {
        let lines = |told: Vec<(usize, Told)>| -> Lines {
            let ended = std::iter::once(Err(anyhow::anyhow!("sample: ended")));
            let lines = told.into_iter().map(Ok).chain(ended);
            SelectAll::from_iter([futures::stream::iter(lines).boxed()])
        };
        let has = |at, number| (at, Told::Has(number));
        let had = async |told| {
            all_have::<Sample>(&mut lines(told), 2, 7)
                .await
                .map_err(|error| error.to_string())
        };
        assert!(had(vec![has(0, 7), has(1, 7)]).await.is_ok());
        let twice = had(vec![has(0, 7), has(0, 7)]).await.unwrap_err();
        assert_eq!(twice, "sample: 0 has 7 when 7 was made");
        let other = had(vec![has(0, 7), has(1, 6)]).await.unwrap_err();
        assert_eq!(other, "sample: 1 has 6 when 7 was made");
        let ended = had(vec![has(0, 7), (1, Told::Met("a".into()))]).await;
        assert_eq!(ended.unwrap_err(), "sample: ended");
    }
}
