//! The engine's snapshots: files beside its log that only make a start quicker. One that was never finished, or that
//! does not read back, costs nothing that was acknowledged (G1).

use std::fs;
use std::path::{Path, PathBuf};

use grapevine_core::store::Recovered;
use grapevine_store::{OpenReport, SledStore, Store};

use crate::make::*;
use crate::trouble::{copy, engine_files};

/// What a store holds, as far as it can be read from outside.
type Held = (Recovered, Vec<(String, String, u32)>);

/// A store whose log has been cleaned and rewritten in many runs, and what it holds.
fn churned(path: &Path) -> Held {
    let mut config = config(path);
    config.log_bytes_max = 64 << 10;
    for run in 0..6_u64 {
        let (store, _, report) = grapevine_store::open(&config).unwrap();
        assert_eq!(report, OpenReport::default());
        for round in run * 20..run * 20 + 20 {
            let registrations = (0..200)
                .map(|index| {
                    let class = format!("c/{}", (round + index) % 17);
                    // The same addresses again: their pages are written anew, and the engine moves what is left.
                    registration(&format!("{}:{index}", round % 7), &[&class], 100)
                })
                .collect::<Vec<_>>();
            store
                .commit(&[
                    log(1, round + 1, batch(registrations.clone())),
                    register(registrations),
                    join(&format!("v/{}", round % 30), &[], &[(1, round + 1)]),
                    take(&[&format!("c/{}", round % 5)]),
                ])
                .unwrap();
        }
    }
    let (store, recovered, _) = grapevine_store::open(&config).unwrap();
    held(&store, recovered)
}

fn held(store: &SledStore, recovered: Recovered) -> Held {
    store.verify().unwrap();
    (recovered, listed(store, "c", 1000))
}

fn snapshot(path: &Path) -> PathBuf {
    let is_one = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy();
        name.starts_with("snap.") && !name.contains("generating")
    };
    let mut found: Vec<_> = engine_files(path).into_iter().filter(is_one).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// It opens with all that it held, sets nothing aside, and is in order from then on.
fn opens_whole(path: &Path, expected: &Held, what: &str) {
    let rows = expected.1.len();
    for again in ["", ", again"] {
        let (store, recovered, report) = grapevine_store::open(&config(path))
            .unwrap_or_else(|error| panic!("{what}{again}: {error}"));
        assert_eq!(report.set_aside, None, "{what}{again}: {report:?}");
        assert_eq!(report.commits_lost, 0, "{what}{again}");
        let found = held(&store, recovered);
        assert_eq!(found.1.len(), rows, "{what}{again}");
        assert!(found == *expected, "{what}{again}: it holds something else");
        assert!(
            engine_files(path).iter().all(|file| {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                !name.contains("generating") && !name.starts_with("unreadable")
            }),
            "{what}{again}: {:?}",
            engine_files(path)
        );
    }
}

#[test]
fn g1_a_snapshot_that_was_never_finished_is_not_read() {
    let base = tempfile::tempdir().unwrap();
    let original = base.path().join("original");
    let expected = churned(&original);
    let whole = fs::read(snapshot(&original)).unwrap();
    let unfinished = [
        ("empty", Vec::new()),
        ("a few bytes", whole[..7].to_vec()),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("nearly whole", whole[..whole.len() - 1].to_vec()),
        // A later one that is written over it, and is shorter, would keep its end.
        ("longer", [&whole[..], &[0; 4096]].concat()),
    ];
    for (index, (what, bytes)) in unfinished.iter().enumerate() {
        for name in ["snap.FFFFFFFFFFFFFFFF", "snap.0000000000000001"] {
            let path = base.path().join(format!("{index}-{name}"));
            copy(&original, &path);
            let planted = path.join("sled").join(format!("{name}.generating"));
            fs::write(planted, bytes).unwrap();
            opens_whole(&path, &expected, &format!("{name} {what}"));
        }
    }
}

#[test]
fn g1_a_snapshot_that_does_not_read_back_is_made_anew_from_the_log() {
    let base = tempfile::tempdir().unwrap();
    let original = base.path().join("original");
    let expected = churned(&original);
    let name = snapshot(&original).file_name().unwrap().to_owned();
    let whole = fs::read(snapshot(&original)).unwrap();
    let end = whole.len();
    let garbled = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages = [
        ("empty", Vec::new()),
        ("a few bytes", whole[..12].to_vec()),
        ("half", whole[..end / 2].to_vec()),
        ("all but its last byte", whole[..end - 1].to_vec()),
        ("nothing but zeros", vec![0; end]),
        ("garbled in front", garbled(0)),
        ("garbled in the middle", garbled(end / 2)),
        ("garbled at the end", garbled(end - 1)),
    ];
    for (index, (what, bytes)) in damages.iter().enumerate() {
        let path = base.path().join(index.to_string());
        copy(&original, &path);
        fs::write(path.join("sled").join(&name), bytes).unwrap();
        opens_whole(&path, &expected, what);
    }
    // A newer one that is bad, beside one that is not.
    let path = base.path().join("two");
    copy(&original, &path);
    fs::write(path.join("sled").join("snap.FFFFFFFFFFFFFFFF"), &whole[..9]).unwrap();
    opens_whole(&path, &expected, "a newer one that is short");
}

#[test]
fn g2_a_log_that_is_damaged_too_never_passes_for_a_whole_one() {
    let base = tempfile::tempdir().unwrap();
    let original = base.path().join("original");
    let expected = churned(&original);
    let name = snapshot(&original).file_name().unwrap().to_owned();
    let log = fs::read(original.join("sled").join("db")).unwrap();
    let (mut whole, mut aside) = (0, 0);
    let cases = 60;
    for case in 0..cases {
        let path = base.path().join(case.to_string());
        copy(&original, &path);
        fs::write(path.join("sled").join(&name), b"").unwrap();
        let mut bytes = log.clone();
        let at = bytes.len() / cases * case + 13 * case;
        bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(path.join("sled").join("db"), bytes).unwrap();
        let (store, recovered, report) = grapevine_store::open(&config(&path)).unwrap();
        assert_eq!(report.commits_lost, 0, "{case}: {report:?}");
        if report.set_aside.is_some() {
            assert_eq!(recovered, Recovered::default(), "{case}");
            aside += 1;
        } else {
            assert!(
                held(&store, recovered) == expected,
                "damage at byte {at}: it holds something else"
            );
            whole += 1;
        }
        drop(store);
        fs::remove_dir_all(&path).unwrap();
    }
    eprintln!("{whole} whole, {aside} set aside");
    assert!(aside > 0, "the damage was nowhere that matters");
}
