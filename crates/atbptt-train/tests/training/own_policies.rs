//! Policies of one's own: what the loop holds them to.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failure here is a failed test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atbptt_core::EstimateError;
use atbptt_core::policy::{
    Decision, Measurement, Monitor, MonitorConfig, NextWindow, PolicyState, Position, Reason,
    Schedule, TruncationPolicy,
};

use super::setup::{adam, config, launch, model, strategy};
use crate::common::{corpus, training, turn};

/// A fixed K that always asks for three more probes.
#[derive(Debug)]
struct Insatiable {
    monitor: Monitor,
    asked: Arc<AtomicUsize>,
}

impl TruncationPolicy for Insatiable {
    fn next_window(&mut self) -> NextWindow {
        NextWindow::new(5)
    }

    fn k(&self) -> usize {
        5
    }

    fn k_max(&self) -> usize {
        5
    }

    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn more_probes(&self, _measured: &Measurement) -> usize {
        self.asked.fetch_add(1, Ordering::SeqCst);
        3
    }

    fn update(&mut self, at: Position, measured: Measurement) -> Decision {
        self.monitor.record(5, Reason::Fixed, at, measured)
    }

    fn save(&self) -> PolicyState {
        PolicyState::Custom {
            name: "insatiable".into(),
            data: String::new(),
            monitor: self.monitor.save(),
        }
    }

    fn restore(&mut self, state: PolicyState) -> Result<(), EstimateError> {
        Err(state.foreign("insatiable"))
    }
}

/// Two probes and three more leave room for two of the next three; with as many allowed as there are at first, there are no more; and
/// a stream of 80 steps has seven windows of 29 whose eight losses do not overlap.
#[test]
fn a_policy_that_always_asks_for_more_probes_gets_what_its_monitor_allows() {
    let _turn = turn();
    for (steps, allowed, expected, times) in [
        (400, 7, 7, 3),
        (400, 2, 2, 1),
        (400, 0, 2, 1),
        (80, 20, 7, 3),
    ] {
        let corpus = corpus(4 * steps + 4, 101);
        let folder = tempfile::tempdir().unwrap();
        let monitor = MonitorConfig::default()
            .with_probes(2)
            .with_max_probes(allowed)
            .with_schedule(Schedule::every_epochs(1));
        let asked = Arc::<AtomicUsize>::default();
        let policy = Insatiable {
            monitor: Monitor::new(Some(monitor)).unwrap(),
            asked: asked.clone(),
        };
        let (result, handle) = launch(
            training(&corpus, folder.path()).num_epochs(2),
            strategy(policy, config()),
            model(&corpus, 0.0, 1),
            adam(),
            1e-2,
        );
        handle.finish(&result).unwrap();
        let history = handle.history();
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].probes, expected, "{allowed} of {steps} steps");
        assert_eq!(
            asked.load(Ordering::SeqCst),
            times,
            "{allowed} of {steps} steps"
        );
    }
}
