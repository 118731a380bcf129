//! This host's name, for the default node id: what the kernel says, else what the shell exported, else `localhost`.

use std::fs;

use super::value::NAME_BYTES_MAX;

/// The name, with every byte that node ids do not allow replaced by a hyphen, and shortened to their limit.
pub(super) fn hostname() -> String {
    let read = |path: &str| fs::read_to_string(path).ok();
    let found = read("/proc/sys/kernel/hostname")
        .or_else(|| read("/etc/hostname"))
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    as_name(found.trim())
}

fn as_name(found: &str) -> String {
    let name: String = found
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(NAME_BYTES_MAX)
        .collect();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_makes_a_legal_node_id() {
        assert_eq!(as_name(""), "localhost");
        assert_eq!(as_name("db 1\u{e9}"), "db-1-");
        assert_eq!(as_name(&"x".repeat(300)).len(), NAME_BYTES_MAX);
        assert!(!hostname().is_empty());
    }
}
