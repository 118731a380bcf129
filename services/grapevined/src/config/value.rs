//! The kinds of values that knobs take, each with one text form.
//!
//! Every source hands over text: a TOML string or number as it stands, a TOML array joined by the list's separator, a
//! variable, a flag. [`Value::parse`] is the only way from there to a typed value, so a value means the same wherever
//! it comes from, and [`Value::text`] is the way back.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use grapevine_core::names::NodeId;
use tracing_subscriber::EnvFilter;

use super::hostname::hostname;

/// The longest node id and cluster name, in bytes: both stand in every gossip datagram.
pub const NAME_BYTES_MAX: usize = 64;
/// The longest `host:port`, in bytes: a DNS name of 253 bytes, a colon and a port.
pub const HOST_PORT_BYTES_MAX: usize = 259;
/// The longest path of a Unix socket, in bytes: the system's limit.
pub const UNIX_PATH_BYTES_MAX: usize = 107;
/// The most elements of a list knob.
pub const LIST_MAX: usize = 64;

/// How a value is written in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A bare number.
    Number,
    /// An array of strings; in one text they are joined by the first of these, and split at any of them.
    List(&'static [char]),
}

/// A kind of value.
pub(super) trait Value: Sized {
    /// What stands for it in `--help`.
    const KIND: &'static str;
    /// How it is written in TOML.
    const SHAPE: Shape = Shape::Text;
    /// Whether it can be raised, and so has a price.
    const ORDERED: bool = false;

    /// From its text; otherwise what would be right.
    fn parse(text: &str) -> Result<Self, String>;

    /// Its text.
    fn text(&self) -> String;

    /// Whether it lies in the range. Only kinds with an order have ranges.
    fn within(&self, _min: &Self, _max: &Self) -> bool {
        true
    }
}

macro_rules! ordered {
    ($type:ty, $kind:literal, $shape:expr, $parse:expr, $text:expr) => {
        impl Value for $type {
            const KIND: &'static str = $kind;
            const SHAPE: Shape = $shape;
            const ORDERED: bool = true;

            fn parse(text: &str) -> Result<Self, String> {
                $parse(text)
            }

            fn text(&self) -> String {
                $text(self)
            }

            fn within(&self, min: &Self, max: &Self) -> bool {
                (min..=max).contains(&self)
            }
        }
    };
}

ordered!(
    Duration,
    "DURATION",
    Shape::Text,
    |text| humantime::parse_duration(text)
        .map_err(|error| format!("is not a duration such as 250ms, 2s or 5m: {error}")),
    |value: &Duration| humantime::format_duration(*value)
        .to_string()
        .replace(' ', "")
);
ordered!(
    ByteSize,
    "BYTES",
    Shape::Text,
    ByteSize::parse,
    ByteSize::to_string
);
ordered!(u32, "NUMBER", Shape::Number, whole_number, u32::to_string);
ordered!(
    usize,
    "NUMBER",
    Shape::Number,
    whole_number,
    usize::to_string
);

fn whole_number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.replace('_', "")
        .parse()
        .map_err(|_| "is not a whole number, or far too large".to_owned())
}

/// A number of bytes, written `64MiB`, `10kB` or `4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    const UNITS: [(&'static str, u64); 9] = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];

    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// How many bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// How many bytes, as far as this machine can address them.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let factor = Self::UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, factor)| *factor)
            .filter(|_| digits > 0)
            .ok_or("is not a size in bytes such as 4096, 512KiB, 64MiB or 2GiB")?;
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| "is more bytes than there are".to_owned())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = Self::UNITS
            .iter()
            .skip(5)
            .rev()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// Why a text is not a name for nodes and clusters.
fn check_name(text: &str) -> Result<(), String> {
    let legal = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if legal {
        Ok(())
    } else {
        Err(format!(
            "is not 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-'"
        ))
    }
}

impl Value for NodeId {
    const KIND: &'static str = "NAME";

    fn parse(text: &str) -> Result<Self, String> {
        let name = if text.is_empty() {
            hostname()
        } else {
            text.to_owned()
        };
        check_name(&name)?;
        Self::parse(&name).map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        self.as_str().to_owned()
    }
}

/// A cluster's name: 1 to 64 letters, digits, `.`, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for ClusterName {
    const KIND: &'static str = "NAME";

    fn parse(text: &str) -> Result<Self, String> {
        check_name(text)?;
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// A `host:port` that is resolved when it is used; the host is a DNS name, an IPv4 address or an IPv6 one in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(String);

impl HostPort {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as Value>::parse(text)
    }
}

impl Value for HostPort {
    const KIND: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        let legal = text.len() <= HOST_PORT_BYTES_MAX
            && text.rsplit_once(':').is_some_and(|(host, port)| {
                is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
        if legal {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "is not host:port or [ipv6]:port with a port of 1 to 65535, at most {HOST_PORT_BYTES_MAX} bytes"
            ))
        }
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "IP:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "is not ip:port or [ipv6]:port; a listener takes no host names".to_owned())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// The path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPath(PathBuf);

impl UnixPath {
    /// The path.
    pub fn as_path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Value for UnixPath {
    const KIND: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > UNIX_PATH_BYTES_MAX {
            return Err(format!(
                "has {} bytes; the limit for a Unix socket is {UNIX_PATH_BYTES_MAX}",
                text.len()
            ));
        }
        <PathBuf as Value>::parse(text).map(Self)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            Err("is not a path".to_owned())
        } else {
            Ok(text.into())
        }
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}

/// The mode of a socket's file: who may read and write it, its owner in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl FileMode {
    const OWNER: u32 = 0o600;
    const MOST: u32 = 0o777;

    /// As the system takes it.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Value for FileMode {
    const KIND: &'static str = "MODE";

    fn parse(text: &str) -> Result<Self, String> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| octal);
        bits.filter(|bits| *bits <= Self::MOST && bits & Self::OWNER == Self::OWNER)
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "is not an octal mode such as 0660, from {:04o} to {:04o}, by which the owner may read and write",
                    Self::OWNER,
                    Self::MOST
                )
            })
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Which log lines are written: a level, and levels by module after commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for LogFilter {
    const KIND: &'static str = "FILTER";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty; off silences everything".to_owned());
        }
        EnvFilter::try_new(text)
            .map(|_| Self(text.to_owned()))
            .map_err(|error| {
                format!("is not a filter such as info or info,grapevined=debug: {error}")
            })
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Value for LogFormat {
    const KIND: &'static str = "text|json";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is neither text nor json".to_owned()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
        .to_owned()
    }
}

/// An empty text means none.
impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    const SHAPE: Shape = T::SHAPE;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Ok(None)
        } else {
            T::parse(text).map(Some)
        }
    }

    fn text(&self) -> String {
        self.as_ref().map_or_else(String::new, T::text)
    }
}

/// What may stand in a list, and what separates it there.
pub(super) trait Element: Value {
    /// Any of these separates; the first joins.
    const SEPARATORS: &'static [char];
}

impl Element for HostPort {
    const SEPARATORS: &'static [char] = &[',', ' ', '\t', '\n'];
}

impl<T: Element> Value for Vec<T> {
    const KIND: &'static str = T::KIND;
    const SHAPE: Shape = Shape::List(T::SEPARATORS);

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(T::SEPARATORS).filter(|part| !part.is_empty());
        let count = parts.clone().count();
        if count > LIST_MAX {
            return Err(format!("has {count} elements; the limit is {LIST_MAX}"));
        }
        let mut list = Self::with_capacity(count);
        let mut wrong = Vec::new();
        for part in parts {
            match T::parse(part) {
                Ok(element) => list.push(element),
                Err(reason) => wrong.push(format!("{part:?}, which {reason}")),
            }
        }
        if wrong.is_empty() {
            Ok(list)
        } else {
            Err(format!("holds {}", wrong.join("; and ")))
        }
    }

    fn text(&self) -> String {
        let parts: Vec<String> = self.iter().map(T::text).collect();
        parts.join(&T::SEPARATORS[0].to_string())
    }
}
