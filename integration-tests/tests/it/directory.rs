//! A sidecar's directory is lost, restored from an older copy, or damaged; and what its peers hold for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use grapevine_integration_tests::{Fault, Setup, always, eventually};
use grapevine_proto::v1::{Freshness, ReceiptLevel};

use crate::support::{SOON, Superseded, check_catching_up, numbered};

/// Longer than `max_staleness` in the kit's clusters.
const A_WHILE: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn g1_an_acknowledged_bump_survives_the_loss_of_its_disk() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    let mut old = Superseded::default();
    for round in 0..3 {
        let class = format!("lost/{round}");
        let (before, _) = cluster[1].api.token(&class).await.unwrap();
        old.bump(&cluster[0].api, &class).await.unwrap();
        cluster[0].kill().await.unwrap();
        cluster[0].wipe().unwrap();
        let heir = cluster[1].api.clone();
        eventually("a survivor has the bump", SOON, async || {
            let (token, _) = heir.token(&class).await?;
            ensure!(token != before, "it gives the token from before");
            Ok(())
        })
        .await
        .unwrap();
        cluster[0].start().unwrap();
        cluster.wait_fresh().await.unwrap();
        for node in cluster.nodes() {
            old.check(&node.id, &node.api).await.unwrap();
        }
    }
    cluster
        .wait_agree(&numbered("lost/", 3), SOON)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_g11_a_wiped_directory_brings_no_superseded_token_back_and_vouches_for_nothing() {
    let mut cluster = Setup::of(3).relays().start().await.unwrap();
    let mut old = Superseded::default();
    let classes = numbered("wiped/", 10);
    for node in 0..3 {
        old.bump_all(&cluster[node].api, &classes).await.unwrap();
    }
    cluster[0]
        .api
        .register("kept", numbered("value::", 500))
        .await
        .unwrap();
    wait_listed(&cluster[1].api, "kept", 500).await.unwrap();
    let current = cluster.wait_agree(&classes, SOON).await.unwrap();

    cluster[0].kill().await.unwrap();
    cluster[0].wipe().unwrap();
    cluster[0].hears(Fault::Cut).unwrap();
    cluster[0].start().unwrap();
    cluster[0].wait_serving().await.unwrap();
    let api = cluster[0].api.clone();
    let anything_old = old.and_current(&classes, &current);
    always(
        "a wiped sidecar that hears nothing gives salted tokens",
        A_WHILE,
        async || {
            check_catching_up(&api).await?;
            anything_old.check("n1", &api).await
        },
    )
    .await
    .unwrap();

    cluster[0].hears(Fault::Nothing).unwrap();
    eventually("n1 is fresh", SOON, async || {
        old.check("n1", &api).await.unwrap();
        ensure!(
            api.status().await?.freshness() == Freshness::Fresh,
            "not yet"
        );
        Ok(())
    })
    .await
    .unwrap();
    let agreed = cluster.wait_agree(&classes, SOON).await.unwrap();
    assert_eq!(
        agreed, current,
        "G12: the same knowledge gives the same tokens"
    );
    wait_listed(&api, "kept", 500).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_g11_an_older_copy_of_a_directory_brings_no_superseded_token_back() {
    let mut cluster = Setup::of(3).relays().start().await.unwrap();
    let mut old = Superseded::default();
    let classes = numbered("restored/", 10);
    old.bump_all(&cluster[0].api, &classes).await.unwrap();
    cluster[0].kill().await.unwrap();
    let backup = cluster[0].back_up().unwrap();
    cluster[0].start_fresh().await.unwrap();
    cluster.wait_fresh().await.unwrap();
    // What follows is not in the copy: bumps of n1's own next run, and of others.
    for node in [0, 1, 0] {
        old.bump_all(&cluster[node].api, &classes).await.unwrap();
    }
    cluster[0]
        .api
        .register("kept", numbered("value::", 200))
        .await
        .unwrap();
    wait_listed(&cluster[2].api, "kept", 200).await.unwrap();
    let current = cluster.wait_agree(&classes, SOON).await.unwrap();

    cluster[0].kill().await.unwrap();
    cluster[0].restore(&backup).unwrap();
    cluster[0].hears(Fault::Cut).unwrap();
    cluster[0].start().unwrap();
    cluster[0].wait_serving().await.unwrap();
    let api = cluster[0].api.clone();
    let anything_old = old.and_current(&classes, &current);
    always(
        "a restored sidecar that hears nothing gives salted tokens",
        A_WHILE,
        async || {
            check_catching_up(&api).await?;
            anything_old.check("n1", &api).await
        },
    )
    .await
    .unwrap();

    cluster[0].hears(Fault::Nothing).unwrap();
    cluster.wait_fresh().await.unwrap();
    old.check("n1", &api).await.unwrap();
    let agreed = cluster.wait_agree(&classes, SOON).await.unwrap();
    assert_eq!(
        agreed, current,
        "G12: the same knowledge gives the same tokens"
    );
    wait_listed(&api, "kept", 200).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_a_lone_sidecar_gives_no_superseded_token_after_restarts() {
    let mut cluster = Setup::of(1).start().await.unwrap();
    let mut old = Superseded::default();
    let classes = numbered("alone/", 5);
    for _ in 0..3 {
        old.bump_all(&cluster[0].api, &classes).await.unwrap();
        cluster[0].kill().await.unwrap();
        cluster[0].start_fresh().await.unwrap();
        old.check("n1", &cluster[0].api).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_what_a_dead_sidecar_said_to_one_peer_reaches_the_other() {
    let mut cluster = Setup::of(3).relays().start().await.unwrap();
    let mut old = Superseded::default();
    cluster[2].hears(Fault::Cut).unwrap();
    let classes = numbered("orphan/", 5);
    old.bump_all(&cluster[0].api, &classes).await.unwrap();
    cluster[0]
        .api
        .register("kept", numbered("value::", 100))
        .await
        .unwrap();
    wait_listed(&cluster[1].api, "kept", 100).await.unwrap();
    cluster[0].kill().await.unwrap();

    cluster[2].hears(Fault::Nothing).unwrap();
    let agreed = cluster.wait_agree(&classes, SOON).await.unwrap();
    assert_eq!(agreed, cluster[1].api.tokens(&classes).await.unwrap());
    old.check("n3", &cluster[2].api).await.unwrap();
    wait_listed(&cluster[2].api, "kept", 100).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_a_peer_that_missed_more_than_the_log_holds_gets_a_snapshot() {
    let mut cluster = Setup::of(3)
        .relays()
        .flag("store-log-bytes-max", "1MiB")
        .start()
        .await
        .unwrap();
    // Dice, because equal beginnings are stored once.
    let long = || format!("{:032x}", rand::random::<u128>()).repeat(4);
    let classes: Vec<String> = (0..8_000)
        .map(|number| format!("s{}/{}{number}", number % 8, long()))
        .collect();
    // n3 holds registrations of classes that are bumped while it hears nothing.
    cluster[2]
        .api
        .register(&classes[0], numbered("bumped::", 20))
        .await
        .unwrap();
    cluster[2]
        .api
        .register("s1", numbered("bumped_parent::", 20))
        .await
        .unwrap();
    for node in cluster.nodes() {
        wait_listed(&node.api, &classes[0], 20).await.unwrap();
    }
    let (before, _) = cluster[2].api.token(&classes[0]).await.unwrap();
    cluster[2].hears(Fault::Cut).unwrap();
    for chunk in classes.chunks(500) {
        let request = grapevine_proto::v1::InvalidateRequest {
            classes: chunk.to_vec(),
            receipt: ReceiptLevel::One.into(),
            ..Default::default()
        };
        cluster[0]
            .api
            .app
            .clone()
            .invalidate(request)
            .await
            .unwrap();
    }
    cluster[0]
        .api
        .invalidate("s1", ReceiptLevel::One)
        .await
        .unwrap();
    for batch in 0..4 {
        let addresses = (0..5_000).map(|number| format!("{}::{batch}:{number}", long()));
        cluster[1].api.register("kept", addresses).await.unwrap();
    }

    cluster[2].hears(Fault::Nothing).unwrap();
    cluster.wait_agree(&classes, SOON * 2).await.unwrap();
    let api = cluster[2].api.clone();
    assert_ne!(api.token(&classes[0]).await.unwrap().0, before);
    // The bumps may have come by the log, before the snapshot that the registrations take is whole.
    eventually("it was repaired by a snapshot", SOON * 2, async || {
        ensure!(api.counter("snapshots_adopted").await? >= 1, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    cluster.wait_fresh().await.unwrap();
    wait_listed(&api, "kept", 20_000).await.unwrap();
    wait_listed(&api, &classes[0], 0).await.unwrap();
    wait_listed(&api, "s1", 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_directory_is_set_aside_loudly_and_rebuilt_from_peers() {
    let mut cluster = Setup::of(3).start().await.unwrap();
    let mut old = Superseded::default();
    let classes = numbered("damaged/", 5);
    old.bump_all(&cluster[0].api, &classes).await.unwrap();
    cluster[1]
        .api
        .register("kept", numbered("value::", 2_000))
        .await
        .unwrap();
    for node in cluster.nodes() {
        wait_listed(&node.api, "kept", 2_000).await.unwrap();
    }
    let damages = [overwrite as Damage, truncate];
    for (node, damage) in damages.into_iter().enumerate() {
        cluster[node].kill().await.unwrap();
        damage(&cluster[node].data_dir.join("sled"));
        cluster[node].start_fresh().await.unwrap();
        old.check("the damaged one", &cluster[node].api)
            .await
            .unwrap();
        wait_listed(&cluster[node].api, "kept", 2_000)
            .await
            .unwrap();
        let log = cluster[node].log();
        let told = log
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("starting empty"));
        let lost = log
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("lost acknowledged commits"));
        assert!(told || lost, "nothing tells of the damage:\n{log}");
        if told {
            let aside = fs::read_dir(&cluster[node].data_dir).unwrap();
            let mut names = aside.map(|entry| entry.unwrap().file_name());
            assert!(names.any(|name| name.to_string_lossy().starts_with("sled.corrupt-")));
        }
    }
    cluster.wait_agree(&classes, SOON).await.unwrap();
}

type Damage = fn(&Path);

/// Garbage over everything.
fn overwrite(store: &Path) {
    for file in files(store) {
        let length = fs::metadata(&file).unwrap().len();
        let garbage: Vec<u8> = (0..length)
            .map(|at| u8::try_from(at * 7 % 251).unwrap())
            .collect();
        fs::write(file, garbage).unwrap();
    }
}

/// Half of everything.
fn truncate(store: &Path) {
    for path in files(store) {
        let file = fs::File::options().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length / 2).unwrap();
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

async fn wait_listed(
    api: &grapevine_integration_tests::Api,
    class: &str,
    count: usize,
) -> Result<()> {
    eventually(
        &format!("{count} addresses are listed below {class}"),
        SOON,
        async || {
            let listed = api.addresses(class).await?.len();
            ensure!(listed == count, "{listed} are");
            Ok(())
        },
    )
    .await
}
