//! Configurations as text: the commented defaults, and what a running sidecar would use.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use grapevine_core::policy::PolicySet;

use super::Config;
use super::error::Origin;
use super::knob::Knob;
use super::policies;
use super::table::{KNOBS, SECTIONS};

/// How wide comments are.
const COLUMNS: usize = 110;

const HEAD: &str = "\
Grapevine sidecar: every knob with its default. Delete what you leave as it is.
In rising precedence: this file, the environment, flags. All wrong values are reported at once; \
see --check-config.";

const POLICY_DOC: &str = "\
How the addresses of each class are treated. The first policy whose pattern matches an address's first class governs it; \
what it leaves out, and classes that none matches, get the default's fields. All sidecars of a cluster must hold the same \
policies, and say so when they do not.";

const POLICY_FIELDS: [(&str, &str); 11] = [
    (
        "strategy",
        "versioned: the token is in the address, a bump costs the same however many addresses there are. registered: fixed addresses, an envelope, and a directory so that a bump deletes them; raising their number costs disk and a durable write per fill. bucketed(N): N fixed addresses per class; raising N costs memory in the cache, lowering it costs collisions. ttl: stale until the TTL ends.",
    ),
    (
        "paging",
        "items per page for lists read by limit and offset, 1 to 10000, or off. Raising it costs reads of items that nobody asked for; lowering it costs more cache reads per slice.",
    ),
    (
        "ttl",
        "how long a value may live, 1ms to 10 years. Raising it costs cache memory, and for `ttl` staleness.",
    ),
    (
        "jitter",
        "the largest part of the TTL taken off at random, 0% to 90%, so that values stored together do not end together. Raising it costs hits.",
    ),
    (
        "on_unknown",
        "while freshness is unknown: bypass reads the source and stores nothing; serve goes on for at most serve_unknown_for.",
    ),
    (
        "serve_unknown_for",
        "only with serve. Raising it costs staleness while the cluster is in trouble.",
    ),
    (
        "long_address",
        "an address that is over 250 bytes when decorated: refuse it, or hash it (unreadable in the cache).",
    ),
    (
        "fill",
        "who computes a value that many miss at once. any: one caller per process. one: one caller in the cluster, and the others wait for it; that costs each miss a question to another sidecar and a durable commit.",
    ),
    (
        "stale_while_revalidate",
        "for how long after a soft invalidation the value from before may be served while it is computed anew, up to 1h; 0s for never. Raising it costs staleness after soft invalidations, and after no others.",
    ),
    (
        "source_lag",
        "how long after a commit what fills read (a replica) may not show it, up to 10m; 0s if they read what is committed. Raising it costs fills that are not stored, or read the primary, for so long after each invalidation.",
    ),
    (
        "on_source_lag",
        "what a fill does within that time after an invalidation. no_store: its caller has it alone. primary: it is told to read the primary, and is stored; callers that do not heed that store what is stale.",
    ),
];

/// The policy that the default file shows, commented out.
pub(super) const POLICY_EXAMPLE: &str = "\
[[policy]]
pattern = \"get_items_in_cart/*\"
strategy = \"registered\"
paging = 20
ttl = \"60s\"
jitter = 0.1
on_unknown = \"serve\"
serve_unknown_for = \"30s\"
long_address = \"hash\"
fill = \"one\"
stale_while_revalidate = \"5s\"
source_lag = \"2s\"
on_source_lag = \"no_store\"
";

/// The commented TOML of all defaults. It reads back as [`Config::default`].
pub fn default_config() -> String {
    let mut text = String::new();
    comment(&mut text, HEAD);
    for (section, doc) in SECTIONS {
        text.push('\n');
        comment(&mut text, &joined(doc));
        push(&mut text, format_args!("[{section}]\n"));
        for knob in KNOBS.iter().filter(|knob| knob.section() == *section) {
            text.push('\n');
            explained(&mut text, knob);
        }
    }
    text.push('\n');
    comment(&mut text, POLICY_DOC);
    for (field, doc) in POLICY_FIELDS {
        comment(&mut text, &format!("- {field}: {doc}"));
    }
    text.push_str(&policies::toml(&PolicySet::default()));
    text.push('\n');
    for line in POLICY_EXAMPLE.lines() {
        push(&mut text, format_args!("# {line}\n"));
    }
    text
}

fn explained(text: &mut String, knob: &Knob) {
    comment(text, &knob.help());
    if !knob.cost.is_empty() {
        comment(text, &format!("Raising it {}", knob.cost));
    }
    let limits = knob
        .range
        .map_or_else(String::new, |(min, max)| format!("{min} to {max}; "));
    let flags: Vec<String> = std::iter::once(knob.flag())
        .chain(knob.aliases.iter().map(ToString::to_string))
        .map(|flag| format!("--{flag}"))
        .collect();
    comment(
        text,
        &format!("({limits}{}, {})", flags.join(", "), knob.variable()),
    );
    push(
        text,
        format_args!("{} = {}\n", knob.name(), knob.toml(knob.default)),
    );
}

/// A configuration as TOML, each value that is not the default with where it came from. Passwords are hidden, so it
/// reads back only without them.
pub(super) fn effective(config: &Config, origins: &BTreeMap<&'static str, Origin>) -> String {
    let mut text = String::new();
    for (section, _) in SECTIONS {
        push(&mut text, format_args!("[{section}]\n"));
        for knob in KNOBS.iter().filter(|knob| knob.section() == *section) {
            let value = knob.toml(&(knob.text)(config));
            let origin = origins
                .get(knob.key)
                .map_or_else(String::new, |origin| format!("  # {origin}"));
            push(
                &mut text,
                format_args!("{} = {value}{origin}\n", knob.name()),
            );
        }
        text.push('\n');
    }
    text.push_str(&policies::toml(&config.policies));
    text
}

fn joined(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// Adds formatted text.
pub(super) fn push(text: &mut String, more: fmt::Arguments<'_>) {
    text.write_fmt(more)
        .expect("invariant: a String takes whatever is written to it");
}

/// Adds prose as comment lines, wrapped at words.
fn comment(text: &mut String, prose: &str) {
    for paragraph in prose.lines() {
        let mut column = 0;
        for word in paragraph.split_whitespace() {
            if column > 0 && column + 1 + word.len() > COLUMNS {
                text.push('\n');
                column = 0;
            }
            text.push_str(if column == 0 { "# " } else { " " });
            column += 1 + word.len() + usize::from(column == 0);
            text.push_str(word);
        }
        text.push('\n');
    }
}
