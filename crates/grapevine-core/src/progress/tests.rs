use super::*;

fn first_gap(lane: &LaneProgress) -> Option<(u64, u64)> {
    lane.gaps().next()
}

#[test]
fn events_apply_in_any_order_and_gaps_say_what_is_missing() {
    let mut lane = LaneProgress::default();
    assert!(lane.apply(3));
    assert!(lane.apply(5));
    assert_eq!(
        (lane.watermark(), first_gap(&lane), lane.missing()),
        (0, Some((1, 2)), 3)
    );
    assert!(lane.apply(1));
    assert!(lane.apply(2));
    assert_eq!((lane.watermark(), first_gap(&lane)), (3, Some((4, 4))));
    assert!(!lane.apply(5));
    assert!(lane.apply(4));
    assert_eq!(
        (lane.watermark(), first_gap(&lane), lane.head()),
        (5, None, 5)
    );
    lane.learn_head(9);
    assert_eq!(first_gap(&lane), Some((6, 9)));
    lane.apply(8);
    lane.adopt(7);
    assert_eq!((lane.watermark(), first_gap(&lane)), (8, Some((9, 9))));
}

#[test]
fn every_gap_is_told_and_what_is_held_in_a_range_is_found() {
    let mut lane = LaneProgress::default();
    for sequence in [1, 3, 4, 8] {
        lane.apply(sequence);
    }
    lane.learn_head(9);
    let gaps: Vec<_> = lane.gaps().collect();
    assert_eq!(gaps, [(2, 2), (5, 7), (9, 9)]);
    let held = |first, last| lane.first_held(first, last);
    assert_eq!(
        [held(1, 9), held(2, 9), held(4, 9)],
        [Some(1), Some(3), Some(4)]
    );
    assert_eq!([held(5, 9), held(5, 7), held(9, 9)], [Some(8), None, None]);
    assert_eq!(LaneProgress::default().gaps().next(), None);
}

#[test]
fn what_is_closed_is_waited_for_no_longer_and_applied_when_it_comes() {
    let mut lane = LaneProgress::default();
    for sequence in [1, 3, 6] {
        lane.apply(sequence);
    }
    lane.learn_head(8);
    assert_eq!(lane.close(2), 1);
    assert_eq!((lane.covered(), lane.told_head()), (3, 8));
    assert_eq!((lane.close(8), lane.close(8)), (4, 0));
    assert_eq!((lane.covered(), lane.told_head()), (8, 6));
    // One more is missing than was closed.
    lane.learn_head(9);
    assert_eq!((lane.covered(), lane.told_head()), (8, 9));
    assert!(!lane.has(2) && lane.apply(2));
    assert_eq!((lane.watermark(), lane.covered()), (3, 8));
    assert_eq!((lane.close(9), lane.covered()), (1, 9));
    // One that hears of it later does not wait for it either.
    let mut lane = LaneProgress::default();
    assert_eq!((lane.close(8), lane.covered()), (0, 0));
    assert_eq!(lane.last(), 8);
    lane.learn_head(8);
    assert_eq!((lane.covered(), lane.told_head()), (8, 0));
}

#[test]
fn g2_what_a_peer_has_of_a_closed_log_is_covered_only_once_it_is_applied() {
    let origin = Incarnation::new(7).expect("not zero");
    let having = |sequences: &[u64]| {
        let mut progress = Progress::default();
        let lane = progress.lane_mut(origin, Lane::Bump);
        for &sequence in sequences {
            lane.apply(sequence);
        }
        lane.learn_head(9);
        lane.close(9);
        progress
    };
    let covers =
        |own: &Progress, peer: &Progress| own.covers_told(&peer.told_heads(), &peer.holes());
    let peer = having(&[1, 2, 5, 8]);
    assert!(covers(&having(&[1, 2, 5, 8]), &peer));
    assert!(covers(&having(&[1, 2, 4, 5, 7, 8, 9]), &peer));
    for lacking in [
        &[1, 2, 5][..],
        &[1, 2, 8],
        &[1, 5, 8],
        &[1, 2, 3, 4, 8],
        &[],
    ] {
        let own = having(lacking);
        assert!(own.covers(&peer.told_heads()), "waited for no longer");
        assert!(!covers(&own, &peer), "{lacking:?}");
    }
    // A peer that lacks more than it can name holds up nobody.
    let many: Vec<_> = (1..3_000).step_by(2).collect();
    let mut peer = having(&many);
    peer.lane_mut(origin, Lane::Bump).close(3_000);
    assert_eq!(peer.holes().len(), HOLES_MAX);
    let heads = having(&[9]).told_heads();
    assert!(having(&[1]).covers_told(&heads, &peer.holes()));
}

#[test]
fn ranges_above_the_watermark_are_bounded_and_nothing_is_lost_by_it() {
    let mut lane = LaneProgress::default();
    let highest = 2 * (RANGES_MAX as u64 + 10);
    for sequence in (2..=highest).step_by(2) {
        lane.apply(sequence);
    }
    assert_eq!(lane.above().count(), RANGES_MAX);
    assert_eq!(lane.head(), highest);
    while let Some((first, last)) = first_gap(&lane) {
        (first..=last).for_each(|sequence| {
            lane.apply(sequence);
        });
    }
    assert_eq!(lane.watermark(), highest);
}

#[test]
fn g7_what_somebody_may_have_does_not_hide_behind_what_nobody_has() {
    let origin = Incarnation::new(7).expect("not zero");
    let mut progress = Progress::default();
    let lane = progress.lane_mut(origin, Lane::Bump);
    (1..=200).step_by(2).for_each(|sequence| {
        lane.apply(sequence);
    });
    lane.close(200);
    (301..=500).step_by(2).for_each(|sequence| {
        lane.apply(sequence);
    });
    let gaps: Vec<_> = progress.gaps(64).map(|(_, _, gap)| gap).collect();
    let closed = gaps.iter().filter(|(_, last)| *last <= 200).count();
    assert_eq!((closed, gaps.len() - closed), (99, 64));
    assert!(gaps.contains(&(198, 198)) && gaps.contains(&(200, 300)));
}
