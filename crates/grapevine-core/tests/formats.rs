//! The test vectors of docs/formats.md, which were computed by an independent program in another language.
#![allow(clippy::unwrap_used, reason = "tests")]

use grapevine_core::address::{Slice, bucket_index, plan};
use grapevine_core::event::{Bump, Floor, Match, PurgeMode};
use grapevine_core::fill::{FillId, FillKey};
use grapevine_core::id::{EventId, Incarnation, Lane};
use grapevine_core::names::{Address, ClassPath};
use grapevine_core::policy::{LongAddress, Policy, Strategy};
use grapevine_core::progress::Progress;
use grapevine_core::token::Token;
use grapevine_core::versions::{Versions, bucket_of};

fn class(path: &str) -> ClassPath {
    ClassPath::parse(path).unwrap()
}

fn event(origin: u128, sequence: u64) -> EventId {
    EventId {
        origin: Incarnation::new(origin).unwrap(),
        sequence,
    }
}

fn bump(versions: &mut Versions, id: EventId, classes: &[&str], matching: Match) {
    let classes = classes.iter().map(|path| class(path)).collect();
    versions.apply_bump(
        id,
        &Bump {
            classes,
            matching,
            purge: PurgeMode::Hard,
        },
    );
}

fn check(versions: &Versions, classes: &[&str], salt: Option<u128>, value: u64, text: &str) {
    let classes: Vec<_> = classes.iter().map(|path| class(path)).collect();
    let salt = salt.map(|salt| Incarnation::new(salt).unwrap());
    let token = versions.token(&classes, salt);
    assert_eq!(token, Token(value), "{token:?}");
    assert_eq!(token.text(), text);
}

#[test]
fn tokens() {
    let none = Versions::new();
    check(
        &none,
        &["cart/13"],
        None,
        0x9dd1_d4ac_2d1b_b761,
        "ndHUrC0bt2E",
    );
    check(
        &none,
        &["cart/13"],
        Some(7),
        0x8666_f961_6e29_2461,
        "hmb5YW4pJGE",
    );

    let mut begun = Versions::new();
    bump(&mut begun, event(1, 1), &["*"], Match::Any);
    check(
        &begun,
        &["cart/13"],
        None,
        0x6a41_a415_076d_1d5b,
        "akGkFQdtHVs",
    );

    let mut bumped = Versions::new();
    bump(&mut bumped, event(1, 1), &["cart/13"], Match::Any);
    check(
        &bumped,
        &["cart/13"],
        None,
        0x9bff_4d2d_a59a_034f,
        "m_9NLaWaA08",
    );

    let mut two = Versions::new();
    bump(&mut two, event(1, 2), &["cart"], Match::Any);
    bump(&mut two, event(2, 3), &["user/7"], Match::Any);
    check(
        &two,
        &["user/7", "cart/13"],
        None,
        0xd884_ed96_cfc4_8435,
        "2ITtls_EhDU",
    );

    assert_eq!(bucket_of("cart/13"), 68);
    let vector = [(event(1, 5).origin, 5), (event(2, 1).origin, 1)]
        .into_iter()
        .collect();
    bumped.apply_floor(
        event(1, 5),
        &Floor {
            top: class("cart"),
            bucket: 68,
            vector,
        },
    );
    check(
        &bumped,
        &["cart/13"],
        None,
        0xc94d_ce02_be80_b5a0,
        "yU3OAr6AtaA",
    );

    let mut both = Versions::new();
    bump(&mut both, event(1, 9), &["cart/13", "user/7"], Match::All);
    check(
        &both,
        &["cart/13", "user/7"],
        None,
        0x9b27_066b_4a68_ed2c,
        "mycGa0po7Sw",
    );
}

#[test]
fn cache_addresses() {
    let mut policy = Policy::fallback();
    let targets = |policy: &Policy, address: &str, slice| -> Vec<String> {
        let address = Address::parse(address).unwrap();
        let targets = plan(&address, &class("cart/13"), slice, policy, Token(1)).unwrap();
        targets
            .iter()
            .map(|target| target.address.as_str().to_owned())
            .collect()
    };
    assert_eq!(
        targets(&policy, "items::13", None),
        ["items::13~1AAAAAAAAAAE"]
    );
    policy.page_size = Some(20);
    let slice = Some(Slice {
        offset: 30,
        limit: 20,
    });
    assert_eq!(
        targets(&policy, "items::13", slice),
        [
            "items::13~p20.1~1AAAAAAAAAAE",
            "items::13~p20.2~1AAAAAAAAAAE"
        ]
    );
    policy.strategy = Strategy::Bucketed(64);
    assert_eq!(targets(&policy, "items::13", None), ["cart/13~b64.7"]);
    assert_eq!(
        targets(&policy, "get_items_in_cart::13:10:30", None),
        ["cart/13~b64.13"]
    );
    assert_eq!(bucket_index("items::13", 64), 7);
    policy.strategy = Strategy::Versioned;
    policy.long_address = LongAddress::Hash;
    assert_eq!(
        targets(&policy, &"x".repeat(238), None),
        ["~hnBxNkO1ki1UfsYATDAhlbQ~1AAAAAAAAAAE"]
    );
}

#[test]
fn turns_to_fill() {
    let run = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10;
    let turn = FillId {
        origin: Incarnation::new(run).unwrap(),
        number: 258,
    };
    let mut bytes = vec![1];
    bytes.extend(1..=16);
    bytes.extend([0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(turn.to_bytes()[..], bytes[..]);
    assert_eq!(FillId::from_bytes(&bytes), Some(turn));
    for (token, address, name) in [
        (
            0x0102_0304_0506_0708,
            "items::1",
            0xf0f8_52de_b62c_d12b_859f_379b_9114_07a3_u128,
        ),
        (
            u64::MAX,
            "cart::13:10:30~1m_9NLaWaA08",
            0x5cd0_6624_0bc3_f7ca_7f37_2f1b_d422_ed1b,
        ),
    ] {
        let key = FillKey::new(&Address::parse(address).unwrap(), Token(token));
        assert_eq!(key.to_bytes(), name.to_be_bytes(), "{address}");
    }
}

#[test]
fn digests_of_heads() {
    let run = |number| Incarnation::new(number).unwrap();
    let mut progress = Progress::default();
    assert_eq!(
        progress.told_digest(),
        0x99aa_06d3_0147_98d8_6001_c324_468d_497f
    );
    // What says nothing, and what comes with views, is left out.
    progress.lane_mut(run(9), Lane::Bump);
    progress.lane_mut(run(9).as_history(), Lane::Bump).adopt(3);
    progress.lane_mut(run(7), Lane::Bump).adopt(5);
    assert_eq!(
        progress.told_digest(),
        0xb4ce_d949_2111_3f52_c44b_c131_50f8_40e1
    );
    progress.lane_mut(run(11), Lane::Bump).adopt(1);
    progress.lane_mut(run(11), Lane::Directory).learn_head(300);
    assert_eq!(
        progress.told_digest(),
        0xbe23_8309_1fb6_d34a_3237_e712_11f3_7cf5
    );
    assert_eq!(progress.applied_digest(), Some(progress.told_digest()));
}
