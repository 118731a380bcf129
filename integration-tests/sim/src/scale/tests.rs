use super::*;

fn options(nodes: usize) -> Options {
    Options {
        nodes,
        seed: 7,
        latency: 250,
        loss_ppm: 0,
        direct: 64,
        receipt: Level::One,
        bumps: 5,
        settle: 2,
        steady: 2,
        restart: 5,
        no_digest: false,
        json: true,
    }
}

fn figures(options: &Options) -> Value {
    let mut out = Vec::new();
    assert!(
        run(options, &mut out).unwrap(),
        "{}",
        String::from_utf8_lossy(&out)
    );
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn a_bump_costs_what_a_full_mesh_costs_and_one_trip() {
    let figures = figures(&options(8));
    let bump = &figures["bump"];
    // Seven pushes and seven acknowledgements, over eight nodes.
    assert_eq!(bump["messages_per_node"], 1.75);
    assert_eq!(bump["trips"]["most"], 1);
    assert_eq!(figures["full_mesh_model"]["messages_per_node"], 1.75);
}

#[test]
fn one_seed_gives_the_same_figures_again_and_another_one_others() {
    let (one, mut other) = (options(6), options(6));
    other.seed = 8;
    assert_eq!(figures(&one), figures(&one));
    assert_ne!(figures(&one), figures(&other));
}

#[test]
fn what_is_lost_costs_time_and_everybody_has_it_all_the_same() {
    let mut lossy = options(6);
    lossy.loss_ppm = 200_000;
    // All starting anew takes longer there.
    lossy.restart = 0;
    let (calm, lossy) = (figures(&options(6)), figures(&lossy));
    let most = |figures: &Value| figures["bump"]["to_all_ms"]["most"].as_f64().unwrap();
    assert!(
        most(&calm) < 10.0 && most(&lossy) > 50.0,
        "{} {}",
        most(&calm),
        most(&lossy)
    );
}

#[test]
fn a_change_takes_chitchat_about_the_logarithm_of_the_nodes_in_rounds() {
    let (few, many) = (chitchat::spread(10, 1, 20), chitchat::spread(1_000, 1, 20));
    assert!((1..=3).contains(&few.rounds.0), "{few:?}");
    assert!((3..=6).contains(&many.rounds.0), "{many:?}");
}

/// Where an answer takes longer than each member leaves to the one before it, a dozen that each outbid another would never agree.
#[test]
fn g7_a_dozen_far_regions_agree_on_a_roster_when_they_start_and_when_all_start_anew() {
    let mut far = options(12);
    // Each leaves the next one 300 ms, and an answer takes as long at the least.
    (far.latency, far.seed) = (150_000, 1);
    far.restart = 30;
    let figures = figures(&far);
    let fresh = |what: &Value| what.as_f64().unwrap();
    let (started, again) = (
        fresh(&figures["fresh_after_start_ms"]),
        fresh(&figures["restart"]["all_fresh_after_ms"]),
    );
    assert!(
        started < 30_000.0 && again < 30_000.0,
        "{started} and {again} ms"
    );
}
