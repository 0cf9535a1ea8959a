//! Folders: one run and one process each, and what a run goes on with.

use super::*;

#[test]
fn a_folder_belongs_to_one_run_and_one_process() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let path = parent.path().join("run");
    let folder = RunFolder::create(&path).unwrap();
    // Held until the last clone is gone.
    assert!(matches!(fault(RunFolder::create(&path)), RunFault::InUse));
    let result = train(run(3, &corpus), &folder, 1.0).unwrap();
    drop(folder);
    assert!(matches!(fault(RunFolder::resume(&path)), RunFault::InUse));
    drop(result);
    assert!(matches!(
        fault(RunFolder::create(&path)),
        RunFault::HoldsRun
    ));

    let foreign = parent.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("precious"), "").unwrap();
    assert!(matches!(
        fault(RunFolder::create(&foreign)),
        RunFault::ForeignFiles
    ));

    // An older checkpoint goes on elsewhere only, a lone one as well.
    let older = Checkpoint::end_of_epoch(&path, 2).unwrap();
    assert!(matches!(
        fault(RunFolder::resume(&older)),
        RunFault::NotNewest { .. }
    ));
    let lone = foreign.join("lone.ckpt");
    std::fs::copy(&older, &lone).unwrap();
    assert!(matches!(fault(RunFolder::resume(&lone)), RunFault::NoHome));
    let other = parent.path().join("other");
    let other = RunFolder::go_on_in(other, Checkpoint::find(&lone).unwrap()).unwrap();
    assert_eq!(
        train(run(3, &corpus), &other, 1.0).unwrap().reports.len(),
        3
    );
    assert!(matches!(
        RunFolder::resume(parent.path().join("nothing")),
        Err(TrainError::NoCheckpoint { .. })
    ));
}

#[test]
fn a_run_is_not_gone_on_with_as_another_one() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let corpus = corpus();
    let path = parent.path().join("run");
    train(run(2, &corpus), &RunFolder::create(&path).unwrap(), 1.0).unwrap();
    let files = |path: &Path| {
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        (read("config.json"), read("metrics.jsonl"))
    };
    let before = files(&path);
    let refused = |run: Run<Model>, lr: f64| {
        let folder = RunFolder::resume(&path).unwrap();
        let error = train(run, &folder, lr).unwrap_err().to_string();
        assert_eq!(files(&path), before);
        error
    };
    let run = |epochs| run(epochs, &corpus);
    for (changed, lr, expected) in [
        (run(3).must_match("data", "other"), 1.0, "data is "),
        (
            run(3),
            0.5,
            "learning rate is 1 in the checkpoint and 0.5 now",
        ),
        (run(1), 1.0, "below the 2 epochs it has behind it"),
    ] {
        let error = refused(changed, lr);
        assert!(error.contains(expected), "{expected:?} in {error:?}");
    }
    let other = Run::new(AdaptiveKConfig::new(0.1).with_k0(6).with_k_max(20))
        .with_training(TbpttConfig {
            probe: ProbeConfig::new(24),
            seed: 7,
            ..TbpttConfig::default()
        })
        .with_display(Display::Silent)
        .with_epochs(3);
    let error = refused(other, 1.0);
    assert!(
        error.contains("delta is 0.5 in the checkpoint and 0.1 now"),
        "{error}"
    );
}

/// Both only where the program says so, and both are listed.
#[test]
fn a_run_goes_on_with_another_learning_rate_and_more_data_where_asked_for() {
    let _turn = turn();
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("run");
    let few = corpus();
    train(run(1, &few), &RunFolder::create(&path).unwrap(), 1.0).unwrap();
    let language = SyntheticConfig::default()
        .with_tokens(1204, 101, 53)
        .with_vocabulary(36)
        .with_distances([3])
        .with_classes(2);
    let many = Corpus::synthetic(&language).unwrap();
    let go_on = |run: Run<Model>, lr: f64| {
        let folder = RunFolder::resume(&path).unwrap();
        let run = run.may_change("data", many.fingerprint());
        let model = LanguageModelConfig::new(many.vocabulary().len())
            .with_hidden(8)
            .init(&run.device().unwrap())
            .unwrap();
        let (source, valid) = (
            many.training(4).unwrap(),
            many.evaluation(Split::Valid, 2).unwrap(),
        );
        run.train(&folder, model, source, valid, SgdConfig::new().init(), lr)
    };
    let error = go_on(run(2, &few).with_more_data(), 0.5)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("learning rate is 1 in the checkpoint and 0.5 now")
            && error.contains("`with_new_learning_rate` allows"),
        "{error}"
    );
    let both = run(2, &few).with_more_data().with_new_learning_rate();
    let result = go_on(both, 0.5).unwrap();
    let changes = result.resumed.unwrap().changes;
    let changes: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(
        changes,
        ["data", "epochs", "learning rate", "steps per sequence"]
    );
    let tokens: Vec<usize> = result.reports.iter().map(|report| report.tokens).collect();
    assert_eq!(tokens, [4 * 200, 4 * 300]);
}
