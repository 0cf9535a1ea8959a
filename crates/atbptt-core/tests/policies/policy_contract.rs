//! One contract that every policy keeps: K within bounds, states that survive JSON exactly, and a restored policy that
//! goes on as the saved one does.

// Helpers outside of test functions may unwrap too: a panic is how a test fails.
#![allow(clippy::unwrap_used)]

use atbptt_core::policy::*;
use atbptt_core::{EstimateError, LagNorms, Scheme};

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

fn at(epoch: usize, update: u64) -> Position {
    Position { epoch, update }
}

fn adaptive() -> AdaptiveKConfig {
    let every_epoch = Schedule::every_epochs(1);
    AdaptiveKConfig::new(0.1)
        .with_k_min(3)
        .with_k0(15)
        .with_k_max(40)
        .with_schedule(every_epoch)
}

/// Every policy: K within bounds, states survive JSON exactly, and a restored policy goes on as the saved one does. Its settings
/// survive JSON too.
fn keeps_the_contract(config: impl Into<PolicyConfig>, scheme: Scheme) {
    let config: PolicyConfig = config.into();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<PolicyConfig>(&text).unwrap(), config);
    let make = || config.init().unwrap();
    let script: Vec<Vec<Probe>> = vec![
        vec![probe(0.9)],
        vec![nan_probe()],
        vec![probe(0.7), probe(0.85)],
        vec![probe(1.05)],
        vec![short_probe(), probe(0.6)],
        vec![probe(0.93), nan_probe()],
    ];
    type Seen = (Option<ProbeRequest>, Option<Decision>, [NextWindow; 3]);
    let run = |policy: &mut Box<dyn TruncationPolicy>, range: std::ops::Range<usize>| {
        let mut seen: Vec<Seen> = Vec::new();
        for i in range {
            let position = at(i + 1, 10 * (i as u64 + 1));
            let due = policy.monitor().probes_due(position);
            let probes = script[i].clone();
            let measured = Measurement::Norms { probes, scheme };
            assert_eq!(
                policy.more_probes(&measured),
                0,
                "norms are not asked for again"
            );
            let decision = due.map(|_| policy.update(position, measured));
            // Windows come in between updates: they are part of what goes on.
            let windows = [(); 3].map(|()| policy.next_window());
            for window in &windows {
                let bounds = 1..=policy.k_max();
                assert!(bounds.contains(&window.k) && bounds.contains(&window.typical_k));
                assert_eq!(window.typical_k, policy.k());
                assert!(window.step_scale > 0.0 && window.step_scale.is_finite());
                assert!(window.compensation.len() < window.k);
                assert!(
                    window
                        .compensation
                        .iter()
                        .all(|f| *f >= 1.0 && f.is_finite())
                );
            }
            seen.push((due, decision, windows));
        }
        seen
    };
    for stop in 0..=script.len() {
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
        assert_eq!(resumed.monitor(), whole.monitor());
        assert_eq!(whole.monitor().history().len(), script.len());

        let before = whole.save();
        let (name, data) = ("foreign".to_owned(), "{}".to_owned());
        let monitor = Monitor::default().save();
        let foreign = PolicyState::Custom {
            name,
            data,
            monitor,
        };
        let refused = whole.restore(foreign).unwrap_err();
        assert_eq!(
            refused,
            EstimateError::ForeignState {
                expected: ["adaptive", "fixed", "scheduled", "random_length", "artbp"]
                    .into_iter()
                    .find(|name| *name == before.policy())
                    .unwrap(),
                got: "foreign".into()
            }
        );
        assert_eq!(whole.save(), before, "a refused state changes nothing");
    }
}

/// Watched as the controller is.
fn monitor() -> Option<MonitorConfig> {
    Some(adaptive().monitor)
}

const SCHEMES: [Scheme; 3] = [
    Scheme::Strided { losses: 7 },
    Scheme::Overlapping,
    Scheme::Chunked,
];

#[test]
fn controller_keeps_the_contract() {
    for scheme in SCHEMES {
        keeps_the_contract(adaptive(), scheme);
        let updates = Schedule::every_updates(10).with_first(Some(5));
        keeps_the_contract(adaptive().with_schedule(updates), scheme);
        let paper = Estimator::Paper(atbptt_core::BiasEstimator::new());
        keeps_the_contract(adaptive().with_estimator(paper), scheme);
    }
}

#[test]
fn fixed_keeps_the_contract() {
    let config = FixedKConfig::new(8).with_monitor(monitor());
    keeps_the_contract(config, SCHEMES[0]);
}

#[test]
fn lengths_given_in_advance_keep_the_contract() {
    let config = ScheduledKConfig::new(vec![(0, 8), (3, 2), (9, 30), (12, 5)]);
    keeps_the_contract(config.with_monitor(monitor()), SCHEMES[0]);
}

#[test]
fn random_lengths_keep_the_contract() {
    let config = RandomLengthConfig::new(12).with_seed(3);
    keeps_the_contract(config.with_monitor(monitor()), SCHEMES[2]);
}

#[test]
fn artbp_keeps_the_contract() {
    let config = ArtbpConfig::new(7).with_seed(3);
    keeps_the_contract(config.with_monitor(monitor()), SCHEMES[2]);
}

#[test]
fn a_state_fits_one_kind_of_policy_only() {
    let configs: [PolicyConfig; 5] = [
        adaptive().into(),
        FixedKConfig::new(8).into(),
        ScheduledKConfig::new(vec![(0, 8)]).into(),
        RandomLengthConfig::new(12).into(),
        ArtbpConfig::new(7).into(),
    ];
    for (i, from) in configs.iter().enumerate() {
        for (j, to) in configs.iter().enumerate() {
            let state = from.init().unwrap().save();
            let restored = to.init().unwrap().restore(state);
            assert_eq!(restored.is_ok(), i == j, "{from:?} into {to:?}");
        }
    }
}
