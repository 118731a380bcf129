#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Command;
use grapevine_core::names::ClassPath;
use grapevine_core::policy::{LongAddress, OnUnknown, Strategy};

use super::value::Value;
use super::*;

/// Loads a file's text, variables and flags.
fn load_all(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[&str],
) -> Result<Loaded, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grapevine.toml");
    fs::write(&path, file).unwrap();
    let mut line = vec![
        "grapevined".to_owned(),
        "--config".to_owned(),
        path.display().to_string(),
    ];
    line.extend(flags.iter().map(ToString::to_string));
    load_line(&line, environment)
}

fn load_line(line: &[String], environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let matches = Command::new("grapevined")
        .args(arguments())
        .try_get_matches_from(line)
        .unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    load(Some(&matches), environment)
}

fn config(file: &str) -> Config {
    load_all(file, &[], &[]).unwrap().config
}

/// The messages of what is wrong, without the temporary path.
fn wrong(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    let errors = load_all(file, environment, flags).unwrap_err();
    errors
        .0
        .iter()
        .map(|error| {
            let text = error.to_string();
            match text.split_once("grapevine.toml ") {
                Some((_, rest)) => rest.to_owned(),
                None => text,
            }
        })
        .collect()
}

#[test]
fn no_configuration_makes_a_cluster_of_one_member() {
    let config = load(None, []).unwrap().config;
    assert_eq!(config, Config::default());
    assert_eq!(config.cluster.name.as_str(), "grapevine");
    assert_eq!(config.cluster.expected_members, 1);
    assert_eq!(config.node.id.as_str(), hostname::hostname());
    assert_eq!(config.app.unix, None);
    assert_eq!(config.app.tcp, Some("127.0.0.1:7400".parse().unwrap()));
    assert_eq!(config.peer.listen, "127.0.0.1:7401".parse().unwrap());
    assert_eq!(config.gossip.listen, "127.0.0.1:7402".parse().unwrap());
    assert_eq!(config.gossip_advertise(), config.gossip.listen);
    assert_eq!(config.peer_advertise(config.peer.listen), "127.0.0.1:7401");
    assert_eq!(config.store.path, PathBuf::from("./grapevine-data"));
    assert!(config.gossip.seeds.is_empty() && config.cache.url.is_empty());
    assert_eq!(config.policies, PolicySet::default());
    assert!(config.warnings().is_empty());
}

#[test]
fn the_default_file_reads_back_as_the_defaults() {
    let text = default_config();
    let loaded = load_all(&text, &[], &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(
        loaded.origins.len(),
        KNOBS.len(),
        "every knob stands in the file"
    );
    assert!(
        text.lines().all(|line| line.len() <= 112),
        "comments are wrapped"
    );
    // The policy shown as a comment is a policy.
    let policies = config(print::POLICY_EXAMPLE).policies;
    assert_eq!(policies.iter().count(), 2);
}

#[test]
fn every_knob_is_explained_and_priced_and_its_default_is_legal() {
    for knob in KNOBS {
        assert!(knob.help().ends_with('.'), "{} has a sentence", knob.key);
        assert_eq!(
            !knob.cost.is_empty(),
            knob.ordered,
            "{}: what can be raised has a price",
            knob.key
        );
        assert!(
            knob.cost.is_empty() || knob.cost.ends_with('.'),
            "{}",
            knob.key
        );
        assert_eq!(
            knob.range.is_some(),
            knob.ordered,
            "{}: what can be raised has limits",
            knob.key
        );
        assert!(SECTIONS_OF_TABLE.contains(&knob.section()), "{}", knob.key);
    }
    let mut names: Vec<String> = KNOBS
        .iter()
        .flat_map(|knob| {
            knob.aliases
                .iter()
                .map(ToString::to_string)
                .chain([knob.flag()])
        })
        .collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "no flag means two knobs");
}

const SECTIONS_OF_TABLE: [&str; 16] = [
    "health",
    "index",
    "metrics",
    "node",
    "cluster",
    "app",
    "peer",
    "gossip",
    "store",
    "freshness",
    "limits",
    "lease",
    "drain",
    "cache",
    "purge",
    "log",
];

#[test]
fn each_limit_is_allowed_and_one_step_beyond_is_refused() {
    for knob in KNOBS.iter().filter(|knob| knob.shape == Shape::Number) {
        let (min, max) = knob.range.unwrap();
        let below = min.parse::<u64>().unwrap() - 1;
        let above = max.parse::<u64>().unwrap() + 1;
        for beyond in [below, above] {
            let name = knob.variable();
            let errors = wrong("", &[(&name, &beyond.to_string())], &[]);
            assert_eq!(errors.len(), 1, "{errors:?}");
            let expected = format!(
                "environment {name}: {}: {beyond} is outside {min} to {max}",
                knob.key
            );
            assert_eq!(errors[0], expected);
        }
    }
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = "[freshness]\nmax_staleness = \"3s\"\n[drain]\ntimeout = \"3s\"\n[lease]\nduration = \"3s\"\n";
    let environment = [
        ("GRAPEVINE_FRESHNESS_MAX_STALENESS", "4s"),
        ("GRAPEVINE_DRAIN_TIMEOUT", "4s"),
    ];
    let loaded = load_all(file, &environment, &["--drain-timeout", "5s"]).unwrap();
    assert_eq!(loaded.config.lease.duration, Duration::from_secs(3));
    assert_eq!(
        loaded.config.freshness.max_staleness,
        Duration::from_secs(4)
    );
    assert_eq!(loaded.config.drain.timeout, Duration::from_secs(5));
    let text = loaded.describe();
    for line in [
        "timeout = \"5s\"  # flag --drain-timeout",
        "max_staleness = \"4s\"  # environment GRAPEVINE_FRESHNESS_MAX_STALENESS",
        "grapevine.toml line 6",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn short_names_of_flags_work() {
    let line = "--node-id n1 --cluster c --data-dir d --app-unix /s --app-tcp 127.0.0.1:0 --peer-listen 127.0.0.1:0 \
                --gossip-listen 127.0.0.1:0 --seeds a:1,b:2 --cache memcached://h:1,i:2 --cache redis://:pw@h:6379 \
                --expected-members 3";
    let flags: Vec<&str> = line.split_whitespace().collect();
    let config = load_all("", &[], &flags).unwrap().config;
    assert_eq!(config.node.id.as_str(), "n1");
    assert_eq!(config.cluster.name.as_str(), "c");
    assert_eq!(config.store.path, PathBuf::from("d"));
    assert_eq!(
        config.app.unix.as_ref().unwrap().as_path(),
        PathBuf::from("/s")
    );
    assert_eq!(config.app.tcp, Some("127.0.0.1:0".parse().unwrap()));
    let seeds: Vec<_> = config.gossip.seeds.iter().map(HostPort::as_str).collect();
    assert_eq!(seeds, ["a:1", "b:2"]);
    let caches: Vec<_> = config.cache.url.iter().map(ToString::to_string).collect();
    assert_eq!(caches, ["memcached://h:1,i:2", "redis://:***@h:6379"]);
    assert_eq!(config.cluster.expected_members, 3);
}

#[test]
fn the_effective_configuration_reads_back() {
    let file = "[gossip]\nseeds = [\"a:1\", \"[::1]:2\"]\n[store]\nlog_bytes_max = \"1GiB\"\n[[policy]]\npattern = \"a/*\"\nstrategy = \"bucketed(8)\"\nttl = \"1h 30m\"\n";
    let loaded = load_all(
        file,
        &[("GRAPEVINE_CACHE_URL", "redis://h:6379/1 memcached://a:1")],
        &["--app-tcp", ""],
    );
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("app.unix, app.tcp: both empty"), "{error}");
    let flags = ["--app-tcp", "", "--app-unix", "/run/s"];
    let loaded = load_all(
        file,
        &[("GRAPEVINE_CACHE_URL", "redis://h:6379/1 memcached://a:1")],
        &flags,
    )
    .unwrap();
    assert_eq!(config(&loaded.describe()), loaded.config);
    assert_eq!(loaded.config.store.log_bytes_max.get(), 1 << 30);
}

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let file = "\
[node]
id = \"a b\"
[freshness]
max_staleness = 2
[store]
cache_bytes = \"64 cats\"
log_bytes_max = \"1kB\"
pth = \"x\"
[limits]
max_staleness = \"1s\"
watchers_max = \"many\"
[gossip]
seeds = [\"a\", 7]
[index]
declared = [\"items\", \"items:a+a\", \"items:a+b+c+d+e\", \"ok:a\"]
[lease]
duration = [\"1s\"]
[colours]
red = 1
";
    let environment = [
        ("GRAPEVINE_LOG_FORMAT", "xml"),
        ("GRAPEVINE_SERVICE_HOST", "10.0.0.1"),
        ("GRAPEVINE_NODEID", "n"),
    ];
    let flags = [
        "--log-filter",
        "a=b=c",
        "--app-unix",
        &"x".repeat(108),
        "--cache",
        "redis://:secret@h:x",
    ];
    let errors = wrong(file, &environment, &flags);
    let expected = [
        "line 2: node.id: \"a b\" is not 1 to 64 letters, digits, '.', '_' or '-'",
        "line 4: freshness.max_staleness: \"2\" is not a duration such as 250ms, 2s or 5m: time unit needed, for example 2sec or 2ms",
        "line 6: store.cache_bytes: \"64 cats\" is not a size in bytes such as 4096, 512KiB, 64MiB or 2GiB",
        "line 7: store.log_bytes_max: 1kB is outside 1MiB to 1TiB",
        "line 8: store.pth: no such key; did you mean store.path?",
        "line 10: limits.max_staleness: no such key; did you mean freshness.max_staleness?",
        "line 11: limits.watchers_max: \"many\" is not a whole number, or far too large",
        "line 13: gossip.seeds: is of the TOML type integer; expected array of strings",
        "line 15: index.declared: \"items,items:a+a,items:a+b+c+d+e,ok:a\" holds \"items\", which is not TABLE:COLUMN or TABLE:COLUMN+COLUMN; and \"items:a+a\", which names a twice; and \"items:a+b+c+d+e\", which has 5 columns; the limit is 4",
        "line 17: lease.duration: is of the TOML type array; expected string",
        "line 18: colours: no such key",
        "environment GRAPEVINE_LOG_FORMAT: log.format: \"xml\" is neither text nor json",
        "environment GRAPEVINE_NODEID: no such key; did you mean GRAPEVINE_NODE_ID?",
    ];
    assert_eq!(errors[..expected.len()], expected);
    let rest = errors[expected.len()..].join("\n");
    for part in [
        "flag --app-unix: app.unix:",
        "has 108 bytes; the limit for a Unix socket is 107",
        "flag --log-filter: log.filter: \"a=b=c\"",
        "flag --cache-url: cache.url:",
    ] {
        assert!(rest.contains(part), "{part} in {rest}");
    }
    assert!(!rest.contains("secret"), "{rest}");
    assert_eq!(errors.len(), expected.len() + 3, "{errors:#?}");
}

#[test]
fn a_cache_inside_the_sidecar_is_refused_with_the_reason() {
    let errors = wrong("[cache]\nurl = [\"memory://\"]\n", &[], &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("no application fills"), "{errors:?}");
}

#[test]
fn a_wrong_value_is_told_also_where_another_source_overrides_it() {
    let errors = wrong(
        "[drain]\ntimeout = \"soon\"\n",
        &[],
        &["--drain-timeout", "1s"],
    );
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("line 2: drain.timeout"), "{errors:?}");
}

#[test]
fn values_that_do_not_go_together_are_told() {
    let file = "[peer]\nlisten = \"0.0.0.0:7400\"\n[gossip]\nlisten = \"0.0.0.0:7402\"\nsuspect_after = \"600ms\"\n[purge]\nretry_interval_min = \"30s\"\n";
    let errors = wrong(file, &[], &[]);
    assert_eq!(
        errors,
        [
            "together: app.tcp, peer.listen: both listen on TCP port 7400",
            "together: peer.listen: 0.0.0.0:7400 is no address that peers can reach; say in peer.advertise where they reach it",
            "together: gossip.advertise: 0.0.0.0:7402 is no address that peers can reach; name one of this host's",
            "together: gossip.suspect_after: 600ms is below five times gossip.interval, which is 2.5s",
            "together: purge.retry_interval_max: 10s is below purge.retry_interval_min, which is 30s",
        ]
    );
    let file = "[health]\nlisten = \"0.0.0.0:7409\"\n[metrics]\nlisten = \"127.0.0.1:7401\"\n";
    assert_eq!(
        wrong(file, &[], &["--app-tcp", "127.0.0.1:7409"]),
        [
            "together: app.tcp, health.listen: both listen on TCP port 7409",
            "together: peer.listen, metrics.listen: both listen on TCP port 7401",
        ]
    );
    let file = "[cluster]\nexpected_members = 12\n[gossip]\nmax_peers = 10\n";
    assert_eq!(
        wrong(file, &[], &[]),
        [
            "together: cluster.expected_members, gossip.max_peers: 12 members are expected, but gossip tracks only 10 others: raise gossip.max_peers"
        ]
    );
    let file = "[app]\ntcp = \"0.0.0.0:7400\"\n[gossip]\nseeds = [\"db1:7402\"]\n";
    let warnings = config(file).warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn a_registered_policy_without_a_cache_is_told_once() {
    let file = "[[policy]]\npattern = \"list/**\"\nstrategy = \"registered\"\n[policy_default]\nstrategy = \"registered\"\n";
    let warnings = config(file).warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("the policy of list/** is registered, but cache.url is empty"),
        "{warnings:?}"
    );
    let with = format!("{file}[cache]\nurl = \"memcached://127.0.0.1:11211\"\n");
    assert_eq!(config(&with).warnings(), Vec::<String>::new());
}

#[test]
fn a_file_that_cannot_be_read_or_parsed_is_told() {
    let missing =
        load_line(&["g".into(), "--config".into(), "no/such.toml".into()], &[]).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("no/such.toml: cannot be read:"),
        "{missing}"
    );
    let missing = load(None, [("GRAPEVINE_CONFIG".into(), "no/such.toml".into())]).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("no/such.toml: cannot be read:"),
        "{missing}"
    );
    let errors = wrong("[node\nid = 1\n[node]\nid = 2 3\n", &[], &[]);
    assert!(
        errors.len() >= 2 && errors.iter().all(|e| e.contains("not TOML")),
        "{errors:?}"
    );
    let errors = wrong("policy = 1\nnode = 2\n", &[], &[]);
    assert!(errors[0].contains("[[policy]]"), "{errors:?}");
    assert!(
        errors[1].contains("node: no such key") || errors[1].contains("table"),
        "{errors:?}"
    );
}

#[test]
fn policies_are_read_in_order_and_inherit_from_the_default() {
    let file = "\
[policy_default]
ttl = \"5m\"
jitter = \"20%\"

[[policy]]
pattern = \"cart/*\"
strategy = \"bucketed(64)\"
paging = 20
jitter = 0.07
on_unknown = \"serve\"
serve_unknown_for = \"30s\"
long_address = \"hash\"

[[policy]]
pattern = \"cart/**\"
strategy = \"ttl\"
paging = { size = 5 }
ttl = \"60s\"
";
    let policies = config(file).policies;
    let of = |path: &str| policies.of(&ClassPath::parse(path).unwrap()).clone();
    let cart = of("cart/13");
    assert_eq!(cart.strategy, Strategy::Bucketed(64));
    assert_eq!(cart.page_size, Some(20));
    assert_eq!((cart.ttl, cart.jitter_percent), (Duration::from_mins(5), 7));
    assert_eq!(cart.on_unknown, OnUnknown::Serve(Duration::from_secs(30)));
    assert_eq!(cart.long_address, LongAddress::Hash);
    let below = of("cart/13/x");
    assert_eq!(
        (below.strategy, below.page_size, below.jitter_percent),
        (Strategy::Ttl, Some(5), 20)
    );
    assert_eq!(
        (of("other").strategy, of("other").ttl),
        (Strategy::Versioned, Duration::from_mins(5))
    );
    let again = config(&policies::toml(&policies)).policies;
    assert_eq!(again, policies);
    assert_eq!(again.digest(), policies.digest());
}

#[test]
fn everything_wrong_with_policies_is_told_at_once() {
    let file = "\
[policy_default]
pattern = \"x\"
ttl = \"0s\"
[[policy]]
patern = \"a\"
[[policy]]
pattern = \"a//b\"
strategy = \"bucketed(x)\"
paging = \"on\"
ttl = \"10\"
jitter = 0.125
on_unknown = \"guess\"
long_address = \"cut\"
[[policy]]
pattern = \"b\"
on_unknown = \"bypass\"
serve_unknown_for = \"1s\"
[[policy]]
pattern = \"d\"
strategy = \"bucketed(5000)\"
[[policy]]
pattern = \"e\"
ttl = \"11years\"
";
    let errors = wrong(file, &[], &[]);
    let expected = [
        "line 1: policy_default: policy \"**\": ttl 0ns is outside 1 ms to 10 years",
        "line 2: policy_default.pattern: no such key",
        "line 4: policy[1]: needs a pattern",
        "line 5: policy[1].patern: no such key; did you mean pattern?",
        "line 7: policy[2].pattern: policy pattern \"a//b\"",
        "line 8: policy[2].strategy: \"bucketed(x)\" is not versioned",
        "line 9: policy[2].paging: is of the TOML type string; expected integer",
        "line 10: policy[2].ttl: \"10\" is not a duration",
        "line 11: policy[2].jitter: \"0.125\" is not a whole percentage",
        "line 12: policy[2].on_unknown: \"guess\" is neither",
        "line 13: policy[2].long_address: \"cut\" is neither",
        "line 14: policy[3]: serve_unknown_for has no effect",
        "line 18: policy[4]: policy \"d\": bucketed(5000)",
        "line 21: policy[5]: policy \"e\": ttl",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, beginning) in errors.iter().zip(expected) {
        assert!(
            error.starts_with(beginning),
            "{error:?} begins with {beginning:?}"
        );
    }
}

#[test]
fn every_wrong_element_of_a_list_is_told() {
    let file = "[cache]\nurl = [\"ftp://a\", \"memcached://b:1\", \"redis:/u:topsecret@h\"]\n";
    let errors = wrong(file, &[], &[]);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    for part in ["ftp://a", "redis:***@h"] {
        assert!(errors[0].contains(part), "{errors:#?}");
    }
    assert!(!errors[0].contains("topsecret"), "{errors:#?}");
}

#[test]
fn too_many_policies_are_counted_before_they_are_read() {
    let file = "[[policy]]\npattern = \"a\"\n".repeat(1_001);
    let errors = wrong(&file, &[], &[]);
    assert_eq!(errors.len(), 1, "{:?}", &errors[..2]);
    assert!(errors[0].contains("1001 policies; the limit is 1000"));
}

#[test]
fn a_policy_with_a_mistake_hides_none_behind_it() {
    let wrong_one = "[[policy]]\npattern = \"\"\n";
    let file = format!("{wrong_one}[[policy]]\npattern = \"a/*\"\n");
    let errors = wrong(&file, &[], &[]);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("policy[1].pattern"), "{errors:#?}");
}

#[test]
fn a_policy_that_is_never_reached_is_refused() {
    let file = "[[policy]]\npattern = \"a/*\"\n[[policy]]\npattern = \"a/*\"\n";
    let errors = wrong(file, &[], &[]);
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].contains("pattern \"a/*\" is never reached: policy[1]"),
        "{errors:?}"
    );
}

#[test]
fn byte_sizes_are_written_as_people_write_them() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4_096),
        ("10kB", 10_000),
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        ("3GiB", 3 << 30),
    ] {
        let size = <ByteSize as Value>::parse(text).unwrap();
        assert_eq!(size.get(), bytes);
        assert_eq!(<ByteSize as Value>::parse(&size.to_string()).unwrap(), size);
    }
    for text in [
        "",
        "MiB",
        "1.5GiB",
        "-1",
        "99999999999999999999",
        "9999999999TiB",
        "5 parsecs",
    ] {
        assert!(<ByteSize as Value>::parse(text).is_err(), "{text}");
    }
}

#[test]
fn addresses_with_ports_are_checked() {
    for good in ["a:1", "db-1.example:65535", "10.0.0.1:7402", "[::1]:7402"] {
        assert!(<HostPort as Value>::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        ":1",
        "a:0",
        "a:65536",
        "::1:2",
        "[::x]:1",
        "a b:1",
        "http://a:1",
    ] {
        assert!(<HostPort as Value>::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_mode_is_octal_and_leaves_the_owner_his_rights() {
    let given = |text: &str| load_all("", &[], &["--app-unix", "/s", "--app-unix-mode", text]);
    for (text, bits) in [
        ("0600", 0o600),
        ("660", 0o660),
        ("0666", 0o666),
        ("0777", 0o777),
    ] {
        let config = given(text).unwrap().config;
        assert_eq!(config.app.unix_mode.unwrap().bits(), bits);
        assert!(config.warnings().is_empty());
    }
    assert_eq!(given("").unwrap().config.app.unix_mode, None);
    let file = "[app]\nunix = \"/s\"\nunix_mode = \"660\"\n";
    let described = load_all(file, &[], &[]).unwrap().describe();
    assert!(described.contains("unix_mode = \"0660\""), "{described}");
    for text in [
        "66",
        "00660",
        "0668",
        "1777",
        "0466",
        "0266",
        "+660",
        "rw-rw----",
        "0o660",
    ] {
        let error = given(text).unwrap_err().to_string();
        let told = format!(
            "flag --app-unix-mode: app.unix_mode: {text:?} is not an octal mode such as 0660, from 0600 to 0777"
        );
        assert!(error.contains(&told), "{error}");
    }
    let alone = load_all("", &[], &["--app-unix-mode", "0660"]).unwrap();
    let warnings = alone.config.warnings().join("\n");
    assert!(warnings.contains("app.unix_mode = 0660"), "{warnings}");
}
