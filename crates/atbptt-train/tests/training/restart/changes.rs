//! What may change when a run goes on, and what may not.

use super::*;

/// More epochs and another folder are no other run: allowed, listed, and the new folder stands on its own.
#[test]
fn more_epochs_and_another_folder_are_allowed_and_listed() {
    let _turn = turn();
    let plain = tempfile::tempdir().unwrap();
    let long = Setup::default();
    let expected = outcome(&long.run(plain.path(), 3, None, None));
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let short = Setup {
        epochs: 2,
        ..Setup::default()
    };
    short.run(first.path(), 3, None, None);
    let saved = Checkpoint::newest(first.path()).unwrap();
    let run = long.run(second.path(), 99, Some(saved), None);
    let changed: Vec<String> = run
        .1
        .resumed()
        .unwrap()
        .changes
        .iter()
        .map(|d| d.name.clone())
        .collect();
    assert_eq!(changed, ["epochs", "run folder"]);
    let got = outcome(&run);
    assert_eq!(
        (&got.weights, &got.reports, &got.history),
        (&expected.weights, &expected.reports, &expected.history)
    );
    let newest = Checkpoint::newest(second.path()).unwrap();
    assert_eq!(newest.epochs(), 3);
    let best = newest.best_epoch().unwrap();
    let best = Checkpoint::end_of_epoch(second.path(), best).unwrap();
    let device = Device::flex().autodiff();
    assert!(best.starts_with(second.path()));
    let template = model(&corpus(804, 101), 12, 0.3, 1);
    assert_eq!(template.devices(), vec![device]);
    Checkpoint::open(best).unwrap().model(template).unwrap();
}

/// Another learning rate or schedule is refused, unless the user asks for it; then it is listed, and the scheduler stands where it
/// would had it been there from the start.
#[test]
fn another_learning_rate_is_refused_unless_asked_for_and_then_listed() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let short = Setup {
        epochs: 2,
        ..Setup::default()
    };
    short.run(folder.path(), 3, None, None);
    let saved = || Checkpoint::newest(folder.path()).unwrap();
    let into = || tempfile::tempdir().unwrap();
    let other = |new_rate| Setup {
        rate: 1e-2,
        new_rate,
        config: TbpttConfig {
            schedule: RateSchedule::default(),
            ..strided()
        },
        ..Setup::default()
    };
    let elsewhere = into();
    let refused = other(false).try_run(elsewhere.path(), 99, Some(saved()), None);
    let error = refused.0.unwrap_err();
    assert!(
        matches!(
            &error,
            TrainError::Checkpoint {
                fault: CheckpointFault::OtherRun { .. },
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("learning rate is 0.02 in the checkpoint and 0.01 now"),
        "{text}"
    );
    assert!(text.contains("schedule is"), "{text}");

    let elsewhere = into();
    let run = other(true).run(elsewhere.path(), 99, Some(saved()), None);
    let changes: Vec<String> = run
        .1
        .resumed()
        .unwrap()
        .changes
        .iter()
        .map(|change| change.name.clone())
        .collect();
    assert_eq!(
        changes,
        ["epochs", "learning rate", "run folder", "schedule"]
    );
    assert_eq!(run.1.reports().len(), 3);

    // Asked for, and nothing changed: the bits of a run that never stopped.
    let (plain, elsewhere) = (into(), into());
    let expected = outcome(&Setup::default().run(plain.path(), 3, None, None));
    let same = Setup {
        new_rate: true,
        ..Setup::default()
    };
    let got = outcome(&same.run(elsewhere.path(), 99, Some(saved()), None));
    assert_eq!(
        (got.weights, got.reports),
        (expected.weights, expected.reports)
    );
}

/// The file is whole; it is the model that has other sizes.
#[test]
fn a_template_of_other_sizes_is_the_models_fault() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let short = Setup {
        epochs: 1,
        ..Setup::default()
    };
    short.run(folder.path(), 3, None, None);
    let saved = Checkpoint::newest(folder.path()).unwrap();
    let template = model(&corpus(804, 101), 16, 0.3, 1);
    let error = saved.model(template).unwrap_err();
    assert!(
        matches!(
            &error,
            TrainError::Checkpoint {
                fault: CheckpointFault::Mismatch { what: "model", .. },
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains(
            "the file is whole: build the model with the kind and sizes it was written with"
        ),
        "{text}"
    );
}
