//! One contract that every policy keeps: K within bounds, states that survive JSON exactly, and a restored policy that
//! goes on as the saved one does.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use atbptt_core::policy::Monitor;
use atbptt_core::{
    AdaptiveConfig, ArtbpConfig, Decision, EstimateError, FixedK, LagNorms, PolicyState, Position,
    RandomLengthConfig, TruncationPolicy, UpdateEvery,
};

type Probe = Result<LagNorms, EstimateError>;

/// φ_k = β^k over 60 steps, two sequences: K(δ) is the smallest k with β^k <= δ, but for the end of the window.
fn probe(beta: f64) -> Probe {
    LagNorms::new((0..=60).map(|k| vec![beta.powi(k); 2]).collect())
}

/// What a diverged backward pass gives.
fn nan_probe() -> Probe {
    LagNorms::new(vec![vec![f64::NAN; 2]; 61])
}

/// A profile that decays, but whose bias stays above one half for every K in its window of 4 steps.
fn short_probe() -> Probe {
    LagNorms::new((0..=4).map(|k| vec![0.95f64.powi(k); 2]).collect())
}

fn at(epoch: usize, step: u64) -> Position {
    Position { epoch, step }
}

fn config(delta: f64) -> AdaptiveConfig {
    AdaptiveConfig::new(delta)
        .with_k_min(3)
        .with_k0(15)
        .with_k_max(40)
}

/// Every policy: K within bounds, states survive JSON exactly, and a restored policy goes on as the saved one does.
fn keeps_the_contract(make: impl Fn() -> Box<dyn TruncationPolicy>, foreign: PolicyState) {
    let script: Vec<Vec<Probe>> = vec![
        vec![probe(0.9)],
        vec![nan_probe()],
        vec![probe(0.7), probe(0.85)],
        vec![probe(1.05)],
        vec![short_probe(), probe(0.6)],
        vec![probe(0.93), nan_probe()],
    ];
    for stop in 0..=script.len() {
        let run = |policy: &mut Box<dyn TruncationPolicy>,
                   range: std::ops::Range<usize>|
         -> Vec<(usize, Option<Decision>, [usize; 3])> {
            let mut seen = Vec::new();
            for i in range {
                let position = at(i + 1, 10 * (i as u64 + 1));
                let due = policy.probes_due(position);
                let decision = (due > 0).then(|| policy.update(position, &script[i]));
                // Windows come in between updates: their lengths are part of what goes on.
                let ks = [(); 3].map(|()| policy.next_k());
                for k in ks {
                    assert!(k >= 1 && k <= policy.k_max());
                }
                assert!(policy.step_scale() > 0.0 && policy.step_scale().is_finite());
                assert!(policy.compensation().len() < ks[2]);
                seen.push((due, decision, ks));
            }
            seen
        };
        let mut whole = make();
        run(&mut whole, 0..stop);
        let text = serde_json::to_string(&whole.save()).unwrap();
        let mut resumed = make();
        resumed
            .restore(serde_json::from_str(&text).unwrap())
            .unwrap();
        assert_eq!(resumed.save(), whole.save());
        assert_eq!(
            run(&mut resumed, stop..script.len()),
            run(&mut whole, stop..script.len())
        );
        assert_eq!(resumed.save(), whole.save());
        assert_eq!(resumed.history(), whole.history());

        let before = whole.save();
        assert!(matches!(
            whole.restore(foreign.clone()),
            Err(EstimateError::ForeignState { .. })
        ));
        assert_eq!(whole.save(), before, "a refused state changes nothing");
    }
}

#[test]
fn controller_keeps_the_contract() {
    let foreign = FixedK::new(3).unwrap().save();
    keeps_the_contract(|| Box::new(config(0.1).init().unwrap()), foreign.clone());
    keeps_the_contract(
        || {
            Box::new(
                config(0.3)
                    .with_every(UpdateEvery::Steps(20))
                    .init()
                    .unwrap(),
            )
        },
        foreign,
    );
}

#[test]
fn fixed_keeps_the_contract() {
    let foreign = PolicyState::Custom {
        name: "random".into(),
        data: "{}".into(),
    };
    let monitor = Monitor::default();
    keeps_the_contract(
        move || Box::new(FixedK::new(8).unwrap().with_monitor(monitor).unwrap()),
        foreign,
    );
}

#[test]
fn random_lengths_keep_the_contract() {
    let foreign = FixedK::new(3).unwrap().save();
    let make = || RandomLengthConfig::new(12).with_seed(3).init().unwrap();
    keeps_the_contract(
        move || Box::new(make().with_monitor(Monitor::default()).unwrap()),
        foreign,
    );
}

#[test]
fn artbp_keeps_the_contract() {
    let foreign = RandomLengthConfig::new(12).init().unwrap().save();
    let make = || ArtbpConfig::new(7).with_seed(3).init().unwrap();
    keeps_the_contract(
        move || Box::new(make().with_monitor(Monitor::default()).unwrap()),
        foreign,
    );
}
