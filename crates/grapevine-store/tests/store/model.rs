//! Random writes, committed in random groups and with reopenings between them, leave the store on disk with what the
//! store in memory has.

use grapevine_core::criteria::Shape;
use grapevine_core::event::{Match, PurgeMode, Registration};
use grapevine_core::id::{EventId, Lane, UnixSeconds};
use grapevine_core::intent::IntentId;
use grapevine_core::names::NodeId;
use grapevine_core::store::{MemberRecord, Write};
use grapevine_store::{MemoryStore, Store};
use proptest::prelude::*;

use crate::make::*;

fn class_text() -> impl Strategy<Value = String> {
    "[ab](/[ab]){0,2}"
}

fn registrations() -> impl Strategy<Value = Vec<Registration>> {
    let address = prop_oneof!["x[0-9]{1,3}", "[0-9]{3}y{200}"];
    let classes = prop::collection::btree_set(class_text(), 1..4);
    let one = (address, classes, 0_u32..2000).prop_map(|(address, classes, expires)| {
        let classes: Vec<_> = classes.iter().map(String::as_str).collect();
        registration(&address, &classes, expires)
    });
    prop::collection::vec(one, 1..60)
}

fn entries() -> impl Strategy<Value = Vec<(u128, u64)>> {
    prop::collection::vec((1_u128..4, 1_u64..20), 1..4)
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (registrations(), any::<bool>())
            .prop_map(|(registrations, own)| Write::Register { registrations, own }),
        1 => registrations().prop_map(|registrations| Write::Unregister { registrations }),
        1 => (prop::collection::btree_set(class_text(), 1..4), any::<(bool, bool)>()).prop_map(
            |(classes, (all, own_only))| Write::Take {
                event: EventId { origin: origin(1), sequence: 1 },
                classes: classes.iter().map(|text| class(text)).collect(),
                matching: if all { Match::All } else { Match::Any },
                own_only,
                purge: PurgeMode::Hard,
            }
        ),
        1 => (0_u32..2100).prop_map(|now| Write::Expire {
            now: UnixSeconds(now),
            limit: 1_000_000,
        }),
        2 => (class_text(), prop::option::of(class_text()), entries()).prop_map(
            |(text, other, entries)| {
                let others: Vec<_> = other.iter().map(String::as_str).collect();
                join(&text, &others, &entries)
            }
        ),
        1 => (0_u16..2, entries(), prop::collection::vec(class_text(), 0..6)).prop_map(
            |(bucket, entries, evict)| Write::JoinFloor {
                floor: floor("a", bucket, &entries),
                evict: evict.iter().map(|text| class(text)).collect(),
            }
        ),
        2 => (1_u128..4, 1_u64..120, class_text())
            .prop_map(|(number, sequence, text)| log(number, sequence, bump(&[&text]))),
        1 => (1_u128..4, 1_u64..30, registrations())
            .prop_map(|(number, sequence, some)| log(number, sequence, batch(some))),
        1 => (1_u128..4, any::<bool>(), 1_u64..30).prop_map(|(number, bump, watermark)| {
            Write::Progress {
                origin: origin(number),
                lane: if bump { Lane::Bump } else { Lane::Directory },
                watermark,
            }
        }),
        1 => (1_u128..4, 0_u8..3).prop_map(|(number, node)| Write::PutMember(MemberRecord {
            node_id: NodeId::parse(&format!("n{node}")).unwrap(),
            incarnation: origin(number),
            peer_address: format!("host:{number}"),
        })),
        1 => (0_u8..3).prop_map(|node| {
            Write::RemoveMember(NodeId::parse(&format!("n{node}")).unwrap())
        }),
        2 => (intent_id(), prop::collection::btree_set(class_text(), 1..5), any::<u32>()).prop_map(
            |(id, classes, micros)| {
                let classes: Vec<_> = classes.iter().map(String::as_str).collect();
                put_intent(id, &classes, u64::from(micros))
            }
        ),
        1 => (intent_id(), 0_usize..400).prop_map(|(id, count)| {
            let classes: Vec<_> = (0..=count).map(|n| format!("a/{n:0150}")).collect();
            let classes: Vec<_> = classes.iter().map(String::as_str).collect();
            put_intent(id, &classes, 1)
        }),
        2 => intent_id().prop_map(Write::RemoveIntent),
        1 => (1_u128..9).prop_map(|number| Write::OwnIncarnation(origin(number))),
        1 => (1_u128..9, 1_u64..9).prop_map(|(number, whole)| Write::Dropped {
            run: origin(number),
            whole,
        }),
        1 => "[ab]".prop_map(|table| Write::PutShape(shape(&table))),
        1 => (1_u128..9).prop_map(|number| Write::ForgetRun(origin(number))),
    ]
}

fn shape(table: &str) -> Shape {
    Shape::parse(&class(&format!("{table}/:x,y~n"))).unwrap()
}

fn intent_id() -> impl Strategy<Value = IntentId> {
    (1_u128..3, 1_u64..5).prop_map(|(number, nth)| intent_id_of(number, nth))
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Write>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = prop::collection::vec(write(), 1..8).prop_map(Step::Commit);
    let step = prop_oneof![6 => commit, 1 => Just(Step::Reopen)];
    prop::collection::vec(step, 1..25)
}

fn check_same(left: &impl Store, right: &impl Store) {
    for below in ["a", "b", "a/b"] {
        assert_eq!(listed(left, below, 50), listed(right, below, 1000));
        let below = class(below);
        assert_eq!(
            left.classes(Some(&below), None, 5).unwrap(),
            right.classes(Some(&below), None, 5).unwrap()
        );
    }
    assert_eq!(left.registrations(), right.registrations());
    assert_eq!(left.floors().unwrap(), right.floors().unwrap());
    assert_eq!(left.shapes().unwrap(), right.shapes().unwrap());
    let mut after = None;
    loop {
        let page = left.snapshot_versions(after.as_ref(), 3).unwrap();
        assert_eq!(page, right.snapshot_versions(after.as_ref(), 3).unwrap());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for number in 1..4 {
        for lane in Lane::ALL {
            for first in [1, 5, 20, 60] {
                let read = |store: &dyn Store| {
                    store
                        .read_log(origin(number), lane, first, first + 50, 2000)
                        .unwrap()
                };
                assert_eq!(read(left), read(right));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]
    #[test]
    fn g1_the_store_on_disk_equals_its_model_over_reopenings(
        steps in steps(),
        log_bytes_max in prop_oneof![Just(1500_u64), Just(20_000)],
        log_inline_bytes_max in prop_oneof![Just(0_usize), Just(60), Just(1024)],
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        config.log_bytes_max = log_bytes_max;
        config.log_inline_bytes_max = log_inline_bytes_max;
        let model = MemoryStore::new(log_bytes_max);
        let (mut store, recovered, _) = grapevine_store::open(&config).unwrap();
        prop_assert_eq!(recovered, model.recover());
        for step in steps {
            match step {
                Step::Commit(writes) => {
                    let taken = store.commit(&writes).unwrap();
                    prop_assert_eq!(taken, model.commit(&writes).unwrap());
                    prop_assert_eq!(store.recover().unwrap(), model.recover());
                    store.verify().unwrap();
                }
                Step::Reopen => {
                    drop(store);
                    let (reopened, recovered, report) = grapevine_store::open(&config).unwrap();
                    prop_assert_eq!(report.set_aside, None);
                    prop_assert_eq!(recovered, model.recover());
                    store = reopened;
                }
            }
            check_same(&store, &model);
        }
    }
}
