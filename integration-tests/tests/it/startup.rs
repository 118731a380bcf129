//! What keeps a sidecar from starting is named, with an exit code: 2 for a wrong command line or configuration, 1 for the
//! rest.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use grapevine_client::Client;
use grapevine_integration_tests::{
    Ended, Setup, eventually, free_ports, grapevine, run_to_end, skip,
};
use tempfile::TempDir;
use tokio::net::TcpStream;

const AT_ONCE: Duration = Duration::from_secs(30);

/// Runs a sidecar with a configuration that is expected to be refused.
async fn refused(arguments: &[&str]) -> Ended {
    let line = ["sidecar"].iter().chain(arguments);
    run_to_end(grapevine().unwrap(), line, AT_ONCE)
        .await
        .unwrap()
}

fn check(ended: &Ended, code: i32, tells: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.output);
    for part in tells {
        assert!(
            ended.output.contains(part),
            "{part:?} is not told:\n{}",
            ended.output
        );
    }
    assert!(!ended.output.contains("panicked"), "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_configuration_is_named() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    check(
        &refused(&["--config", &at("absent.toml")]).await,
        2,
        &["absent.toml", "No such file"],
    );
    fs::create_dir(dir.path().join("a-directory")).unwrap();
    check(
        &refused(&["--config", &at("a-directory")]).await,
        2,
        &["a-directory", "directory"],
    );
    fs::write(dir.path().join("binary.toml"), [0xff, 0xfe, 0]).unwrap();
    check(
        &refused(&["--config", &at("binary.toml")]).await,
        2,
        &["binary.toml", "UTF-8"],
    );
    fs::write(dir.path().join("broken.toml"), "[node\nid = 1").unwrap();
    check(
        &refused(&["--config", &at("broken.toml")]).await,
        2,
        &["broken.toml", "1"],
    );
    // Root reads what nobody may read.
    let hidden = dir.path().join("hidden.toml");
    fs::write(&hidden, "").unwrap();
    fs::set_permissions(&hidden, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if fs::read(&hidden).is_err() {
        check(
            &refused(&["--config", &at("hidden.toml")]).await,
            2,
            &["hidden.toml", "denied"],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_wrong_values_are_told_at_once() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("wrong.toml");
    let toml = r#"
[node]
id = "with a space"
[app]
tcp = "nowhere"
[limits]
watchers_max = 0
wachers_max = 5
[freshness]
max_staleness = "soon"
[[policy]]
pattern = "cart/*"
strategy = "magic"
[[policy]]
pattern = "a//b"
[[policy]]
pattern = "list/*"
ttl = "-5s"
paging = 0
"#;
    fs::write(&file, toml).unwrap();
    let ended = refused(&[
        "--config",
        &file.display().to_string(),
        "--drain-timeout",
        "2weeks",
    ])
    .await;
    let tells = [
        "node.id",
        "with a space",
        "app.tcp",
        "nowhere",
        "watchers_max",
        "wachers_max",
        "max_staleness",
        "soon",
        "magic",
        "versioned",
        "a//b",
        "-5s",
        "paging",
        "drain",
        "2weeks",
        "wrong.toml",
    ];
    check(&ended, 2, &tells);
    let ended = refused(&["--check-config", "--config", &file.display().to_string()]).await;
    check(&ended, 2, &["magic"]);
    let ended = refused(&["--no-such-flag"]).await;
    check(&ended, 2, &["--no-such-flag"]);
}

/// A legal command line, but for what the test changes.
fn line<'a>(dir: &'a str, app: &'a str, peer: &'a str, gossip: &'a str) -> Vec<&'a str> {
    vec![
        "--node-id",
        "n1",
        "--data-dir",
        dir,
        "--app-tcp",
        app,
        "--peer-listen",
        peer,
        "--gossip-listen",
        gossip,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let mut cluster = Setup::of(1).start().await.unwrap();
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data").display().to_string();
    let ports = free_ports(3).unwrap();
    let free = [0, 1, 2].map(|at: usize| format!("127.0.0.1:{}", ports[at]));
    let node = &cluster[0];
    let taken = [node.app_tcp, node.peer, node.gossip].map(|address| address.to_string());
    for (at, knob) in ["app.tcp", "peer.listen", "gossip.listen"]
        .into_iter()
        .enumerate()
    {
        let mut places = free.each_ref();
        places[at] = &taken[at];
        let [app, peer, gossip] = places;
        let ended = refused(&line(&data, app, peer, gossip)).await;
        check(&ended, 1, &[knob, &taken[at], "in use"]);
    }
    assert!(cluster[0].is_running().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_path_in_use_is_named_and_a_stale_one_is_replaced() {
    let mut cluster = Setup::of(1).start().await.unwrap();
    let path = cluster[0].app_unix.clone();
    let shown = path.display().to_string();
    let second = cluster.add("n2").await.unwrap();
    second.set("app-unix", &shown).unwrap();
    second.start().unwrap();
    let ended = second.end(AT_ONCE).await.unwrap();
    check(&ended, 1, &["app.unix", &shown, "in use"]);

    // Its file outlives a killed one.
    cluster[0].kill().await.unwrap();
    assert!(path.exists());
    cluster[0].start_fresh().await.unwrap();
    let client = Client::connect(format!("unix:{shown}")).unwrap();
    assert_eq!(client.status().await.unwrap().node_id, "n1");
    // One that ends by itself removes it, and its lock.
    let lock = path.with_extension("sock.lock");
    assert!(lock.exists());
    cluster[0].terminate().await.unwrap();
    let ended = cluster[0].end(AT_ONCE).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(!path.exists() && !lock.exists());
    cluster[0].start_fresh().await.unwrap();
    cluster[0].kill().await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    cluster[0].start().unwrap();
    let ended = cluster[0].end(AT_ONCE).await.unwrap();
    check(&ended, 1, &["app.unix", &shown, "not a socket"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_another_sidecar_has_or_that_is_none_is_named() {
    let mut cluster = Setup::of(1).start().await.unwrap();
    let data = cluster[0].data_dir.clone();
    let shown = data.display().to_string();
    let ports = free_ports(3).unwrap();
    let [app, peer, gossip] = [0, 1, 2].map(|at: usize| format!("127.0.0.1:{}", ports[at]));
    let ended = refused(&line(&shown, &app, &peer, &gossip)).await;
    check(&ended, 1, &["store.path", &shown, "another"]);
    assert!(cluster[0].is_running().unwrap());
    cluster[0].api.token("class").await.unwrap();

    let file = data.with_extension("file");
    fs::write(&file, "precious").unwrap();
    let shown = file.display().to_string();
    check(
        &refused(&line(&shown, &app, &peer, &gossip)).await,
        1,
        &["store.path", &shown],
    );
    let below = Path::new("/proc/nowhere");
    let shown = below.display().to_string();
    check(
        &refused(&line(&shown, &app, &peer, &gossip)).await,
        1,
        &["store.path", &shown],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_store_does_not_open_says_so_answers_nobody_and_ends_by_a_signal() {
    let mut cluster = Setup::of(1).prepare().await.unwrap();
    let store = cluster[0].data_dir.clone();
    fs::create_dir_all(&store).unwrap();
    // Who opens it for reading waits for a writer.
    let pipe = store.join("acknowledged").display().to_string();
    let made = run_to_end(Path::new("mkfifo"), [&pipe], AT_ONCE).await;
    check(&made.unwrap(), 0, &[]);
    cluster[0].start().unwrap();
    let shown = store.display().to_string();
    eventually("it opens the store", AT_ONCE, async || {
        let log = cluster[0].log();
        ensure!(log.contains("opening the store") && log.contains(&shown));
        Ok(())
    })
    .await
    .unwrap();
    eventually("it says that this takes long", AT_ONCE, async || {
        ensure!(cluster[0].log().contains("still being opened"));
        Ok(())
    })
    .await
    .unwrap();
    // Nobody can answer, so nobody is left waiting.
    for address in [cluster[0].app_tcp, cluster[0].peer] {
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    cluster[0].terminate().await.unwrap();
    let ended = cluster[0].end(AT_ONCE).await.unwrap();
    check(&ended, 0, &["SIGTERM", "before it had started"]);
    assert!(!cluster[0].app_unix.exists(), "its socket is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_log_lines_are_json_and_tell_warnings_and_ports() {
    let test = "json_log_lines_are_json";
    let setup = Setup::of(1)
        .flag("log-format", "json")
        .flag("log-filter", "debug");
    let mut cluster = setup.prepare().await.unwrap();
    // A port of its own choice, which only the log tells; and a thing to be warned of.
    cluster[0].set("app-tcp", "0.0.0.0:0").unwrap();
    cluster[0].start().unwrap();
    eventually("it listens", AT_ONCE, async || {
        ensure!(cluster[0].log().contains("app_tcp"));
        Ok(())
    })
    .await
    .unwrap();
    cluster[0].terminate().await.unwrap();
    let ended = cluster[0].end(AT_ONCE).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    let script = "import json, sys\n\
                  lines = [json.loads(line) for line in open(sys.argv[1])]\n\
                  assert all('level' in line and 'timestamp' in line for line in lines)\n\
                  print([line['app_tcp'] for line in lines if 'app_tcp' in line][0])\n\
                  print([line['message'] for line in lines if line['level'] == 'WARN'][0])\n";
    let log = cluster[0].data_dir.with_extension("log");
    let log = log.display().to_string();
    let python = Path::new("/usr/bin/python3");
    if !python.is_file() {
        return skip(test, "python3 is not installed").unwrap();
    }
    let read = run_to_end(python, ["-c", script, &log], AT_ONCE)
        .await
        .unwrap();
    check(&read, 0, &["0.0.0.0:", "not a loopback address"]);
    assert!(!read.output.starts_with("0.0.0.0:0\n"), "{}", read.output);
}
