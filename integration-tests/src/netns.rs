//! A network of its own for a test: every sidecar in a network namespace, all of them on one bridge.
//!
//! The bridge lies in a namespace too (the *hub*), so nothing of the host's own filters or addresses has a say. The test itself has
//! one link into it, at `.1`, by which it reaches caches and asks sidecars how they are; faults are set between sidecars and never on that
//! link, for the judge must see what happens. What a sidecar sends or hears is cut and lost by `iptables` in its own namespace: the kernel's
//! queueing disciplines for loss and delay are not everywhere, packet filters are. Delay is made by a [`crate::Relay`].
//!
//! It takes root, `ip` and `iptables`. Where they are missing its tests are skipped loudly. Everything goes with the value: the namespaces
//! take their links and rules along. What an earlier test left that was killed is removed first, by the process id in the name.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, id};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};

use crate::skip::skip;

/// As many sidecars as a network may have: addresses `.10` to `.249`.
const NODES_MAX: u32 = 240;
const FIRST_ADDRESS: u32 = 10;
/// Drawn for a subnet; so many others may be in use.
const ATTEMPTS: u32 = 20;
/// The range that is set aside for measurements of networks: nothing real has such an address.
const RANGE: [u8; 2] = [198, 18];
const PREFIX: &str = "gvt";

static OPENED: AtomicU32 = AtomicU32::new(0);

/// Bytes that an interface has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// That came in.
    pub received: u64,
    /// That went out.
    pub sent: u64,
}

/// Namespaces on a bridge. They are removed when it is dropped.
#[derive(Debug)]
pub struct Network {
    /// `gvt<process>x<number>`; the hub's name, and the beginning of the others'.
    name: String,
    subnet: u8,
    nodes: AtomicU32,
}

impl Network {
    /// Makes the hub; nothing where that cannot be done and `test` may be skipped.
    pub fn open(test: &str) -> Result<Option<Self>> {
        remove_left_over();
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}x{number}", id());
        for tool in ["ip", "iptables", "nsenter"] {
            if Command::new(tool).arg("--version").output().is_err() {
                skip(test, &format!("{tool} is not installed"))?;
                return Ok(None);
            }
        }
        if let Err(error) = run("ip", &["netns", "add", &name]) {
            skip(
                test,
                &format!("network namespaces cannot be made (that takes root): {error:#}"),
            )?;
            return Ok(None);
        }
        let mut network = Self {
            name,
            subnet: 0,
            nodes: AtomicU32::new(0),
        };
        network.lay()?;
        Ok(Some(network))
    }

    /// The bridge, and the test's own link to it.
    fn lay(&mut self) -> Result<()> {
        let hub = self.name.clone();
        let (inner, outer) = (format!("{hub}h"), format!("{hub}t"));
        run(
            "ip",
            &["-n", &hub, "link", "add", "bridge", "type", "bridge"],
        )?;
        run("ip", &["-n", &hub, "link", "set", "bridge", "up"])?;
        let pair = [
            "link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &hub,
        ];
        run("ip", &pair)?;
        run(
            "ip",
            &["-n", &hub, "link", "set", &inner, "master", "bridge", "up"],
        )?;
        let used = output("ip", &["-o", "-4", "address"])?;
        let free = (0..ATTEMPTS)
            .map(|_| rand::random::<u8>())
            .find(|subnet| !used.contains(&format!(" {}.{}.{subnet}.", RANGE[0], RANGE[1])));
        self.subnet = free.context("no subnet of the test range is free")?;
        let own = format!("{}/24", self.host());
        run("ip", &["address", "add", &own, "dev", &outer])?;
        run("ip", &["link", "set", &outer, "up"])
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(RANGE[0], RANGE[1], self.subnet, last)
    }

    /// Where the test itself is, and what it starts outside the namespaces.
    pub fn host(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address of a sidecar's namespace, by its position from 0.
    pub fn of(&self, node: usize) -> Ipv4Addr {
        let last = u32::try_from(node).unwrap_or(u32::MAX);
        let last = u8::try_from(last.saturating_add(FIRST_ADDRESS));
        self.address(last.expect("invariant: `add` made it"))
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}n{node}", self.name)
    }

    /// Makes the next sidecar's namespace; answers its position.
    pub fn add(&self) -> Result<usize> {
        let node = self.nodes.fetch_add(1, Ordering::Relaxed);
        ensure!(
            node < NODES_MAX,
            "a test network has at most {NODES_MAX} sidecars"
        );
        let node = usize::try_from(node)?;
        let (space, end) = (self.namespace(node), format!("n{node}"));
        run("ip", &["netns", "add", &space])?;
        let pair = [
            "-n", &self.name, "link", "add", &end, "type", "veth", "peer", "name", "eth0", "netns",
            &space,
        ];
        run("ip", &pair)?;
        run(
            "ip",
            &[
                "-n", &self.name, "link", "set", &end, "master", "bridge", "up",
            ],
        )?;
        let address = format!("{}/24", self.of(node));
        run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        run(
            "ip",
            &["-n", &space, "address", "add", &address, "dev", "eth0"],
        )?;
        run("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
        Ok(node)
    }

    /// The words that start a program in a sidecar's namespace, in front of its own.
    pub fn enter(&self, node: usize) -> Vec<String> {
        let space = format!("--net=/run/netns/{}", self.namespace(node));
        ["nsenter", &space, "--"].map(str::to_owned).to_vec()
    }

    fn filter(&self, node: usize, rule: &[&str]) -> Result<()> {
        let space = format!("--net=/run/netns/{}", self.namespace(node));
        // Waiting for its lock: several may be at it.
        let words = [&[&*space, "--", "iptables", "-w", "5"], rule].concat();
        run("nsenter", &words)
    }

    /// Loses everything that goes from one sidecar to another; what comes the other way is heard.
    pub fn cut_one_way(&self, from: usize, to: usize) -> Result<()> {
        let from = self.of(from).to_string();
        self.filter(to, &["-A", "INPUT", "-s", &from, "-j", "DROP"])
    }

    /// Loses everything between two sets of sidecars, in both directions.
    pub fn cut(&self, these: &[usize], those: &[usize]) -> Result<()> {
        for &this in these {
            for &that in those.iter().filter(|that| **that != this) {
                self.cut_one_way(this, that)?;
                self.cut_one_way(that, this)?;
            }
        }
        Ok(())
    }

    /// Loses each packet between sidecars with a chance of so many in a thousand.
    pub fn lose(&self, per_mille: u32) -> Result<()> {
        let host = self.host().to_string();
        let chance = format!("{}.{:03}", per_mille / 1_000, per_mille % 1_000);
        let random = ["-m", "statistic", "--mode", "random", "--probability"];
        for node in 0..usize::try_from(self.nodes.load(Ordering::Relaxed))? {
            let between = ["-A", "INPUT", "-i", "eth0", "!", "-s", &host];
            let drop = [&*chance, "-j", "DROP"];
            self.filter(node, &[&between[..], &random, &drop].concat())?;
        }
        Ok(())
    }

    /// Ends every cut and loss.
    pub fn heal(&self) -> Result<()> {
        for node in 0..usize::try_from(self.nodes.load(Ordering::Relaxed))? {
            self.filter(node, &["-F"])?;
        }
        Ok(())
    }

    /// What a sidecar's namespace has carried on its link so far, headers of packets included.
    pub fn traffic(&self, node: usize) -> Result<Traffic> {
        let space = format!("--net=/run/netns/{}", self.namespace(node));
        let table = output("nsenter", &[&space, "--", "cat", "/proc/net/dev"])?;
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("eth0:"));
        let line = line.context("the namespace has no link")?;
        let columns: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        // Eight columns of what came in, then those of what went out; bytes are the first of each.
        ensure!(columns.len() >= 9, "/proc/net/dev says {line}");
        Ok(Traffic {
            received: columns[0],
            sent: columns[8],
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let nodes = usize::try_from(self.nodes.load(Ordering::Relaxed)).unwrap_or_default();
        let names = (0..nodes).map(|node| self.namespace(node));
        for name in names.chain([self.name.clone()]) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
        // Its other end went with the hub, unless a process still holds that namespace.
        let own = format!("{}t", self.name);
        let _ = Command::new("ip").args(["link", "delete", &own]).output();
    }
}

/// Removes namespaces of tests whose process is gone.
fn remove_left_over() {
    let Ok(spaces) = output("ip", &["netns", "list"]) else {
        return;
    };
    for name in spaces.lines().filter_map(|line| line.split(' ').next()) {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('x').next());
        let Some(Ok(owner)) = owner.map(str::parse::<u32>) else {
            continue;
        };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

fn output(program: &str, words: &[&str]) -> Result<String> {
    let done = Command::new(program).args(words).output();
    let done = done.with_context(|| format!("{program} cannot be started"))?;
    let told = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "{program} {}: {}",
        words.join(" "),
        told.trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    output(program, words).map(|_| ())
}
