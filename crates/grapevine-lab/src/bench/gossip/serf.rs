//! Serf's user events, between agents with its settings for a local network.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use tokio::process::Command;

use super::{Kind, Told};
use crate::caches::CacheServerError;
use crate::ports::free_ports;
use crate::process::{Piped, find_program};

/// So many agents.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Serf {
    program: PathBuf,
    /// Of each agent, for the others and for commands.
    ports: Vec<(u16, u16)>,
}

impl Serf {
    /// Looks for the program and for ports.
    pub(in crate::bench) fn find(members: usize) -> Result<Self, CacheServerError> {
        let program = find_program(Self::NAME).ok_or(CacheServerError::NotInstalled(Self::NAME))?;
        let ports = free_ports(2 * members).map_err(CacheServerError::Embedded)?;
        let (own, commands) = ports.split_at(members);
        let ports = own.iter().copied().zip(commands.iter().copied());
        Ok(Self {
            program,
            ports: ports.collect(),
        })
    }

    fn commands(&self, at: usize) -> String {
        format!("-rpc-addr=127.0.0.1:{}", self.ports[at].1)
    }
}

impl Kind for Serf {
    const NAME: &'static str = "serf";

    fn members(&self) -> usize {
        self.ports.len()
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn arguments(&self, at: usize) -> Vec<String> {
        let mut arguments = vec![
            "agent".to_owned(),
            format!("-node=member-{at}"),
            format!("-bind=127.0.0.1:{}", self.ports[at].0),
            self.commands(at),
            "-profile=lan".to_owned(),
        ];
        if at > 0 {
            // Whoever starts late is waited for.
            arguments.push(format!("-retry-join=127.0.0.1:{}", self.ports[0].0));
            arguments.push("-retry-interval=1s".to_owned());
        }
        arguments
    }

    fn told(line: &str) -> Option<Told> {
        if let Some((_, who)) = line.split_once("EventMemberJoin: ") {
            let name = who.split(' ').next()?;
            return Some(Told::Met(name.to_owned()));
        }
        let (_, event) = line.split_once("Received event: user-event: ")?;
        event.parse().ok().map(Told::Has)
    }

    async fn change(&self, at: usize, _: &mut Piped, number: usize) -> anyhow::Result<()> {
        let number = number.to_string();
        // An agent would hold events of one name back to tell of them together.
        let arguments = ["event", &self.commands(at), "-coalesce=false", &number];
        let done = Command::new(&self.program)
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(
            done.status.success(),
            "event: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_agents_log_are_understood() {
        let joined = "    2026/11/28 20:40:54 [INFO] serf: EventMemberJoin: member-1 127.0.0.1";
        assert_eq!(Serf::told(joined), Some(Told::Met("member-1".to_owned())));
        let event = "    2026/11/28 20:40:56 [INFO] agent: Received event: user-event: 17";
        assert_eq!(Serf::told(event), Some(Told::Has(17)));
        let other = "    2026/11/28 20:40:55 [INFO] agent: Received event: member-join";
        assert_eq!(Serf::told(other), None);
    }
}
