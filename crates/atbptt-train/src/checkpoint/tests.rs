//! Every byte of a small checkpoint flipped, every length cut, and contents that pass the checksum and make no sense.

use std::fs;

use atbptt_core::{FixedKConfig, TruncationPolicy};

use super::*;
use crate::cursor::Cursor;
use crate::output::StepReport;

fn checkpoint(step: u64) -> Checkpoint {
    let report = StepReport {
        loss_sum: 12.5,
        count: 20,
        k: 5,
        relative_bias: None,
        decay: Some(0.9),
        clipped: true,
        seconds: 0.25,
    };
    let row = WindowRow {
        report,
        lr: 0.1,
        counted: 5,
    };
    Checkpoint::new(
        LoopState {
            epoch: 1,
            complete: false,
            step,
            cursor: Cursor {
                start: 3,
                next_loss: 5,
            },
            policy: FixedKConfig::new(5).init().unwrap().save(),
            sums: EpochSums::default(),
            reports: Vec::new(),
            updates: step,
            shrink: 1.0,
            identity: Identity::new().must_match("data", "abc"),
            read: None,
        },
        "the program's own".into(),
        vec![row; 2],
        parts::Carried::from_bytes(&state_bytes(1, 2, 4, &[0, 0, 128, 63, 0, 0, 0, 64])).unwrap(),
        b"weights".to_vec(),
        b"moments".to_vec(),
        Vec::new(),
    )
}

fn state_bytes(rows: u64, columns: u64, width: u64, values: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [rows, columns, width]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    bytes.extend(values);
    bytes
}

fn fault(path: &Path) -> CheckpointFault {
    match Checkpoint::open(path) {
        Err(TrainError::Checkpoint { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// A run folder with the checkpoints of windows 10 and 20.
fn two() -> (tempfile::TempDir, [PathBuf; 2]) {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoint");
    fs::create_dir(&folder).unwrap();
    let paths = [10, 20].map(|step| {
        let path = folder.join(name_of(1, false, step));
        checkpoint(step).write(&path).unwrap();
        path
    });
    (run, paths)
}

#[test]
fn what_was_written_is_read() {
    let (run, [_, path]) = two();
    let read = Checkpoint::newest(run.path()).unwrap();
    let written = checkpoint(20);
    assert_eq!(read.path(), path);
    assert_eq!((read.epochs(), read.step()), (0, 20));
    assert_eq!(read.state, written.state);
    assert_eq!(read.windows, written.windows);
    assert_eq!(read.carried, written.carried);
    assert!(read.carried.is_some());
    assert_eq!(read.settings(), "the program's own");
    assert_eq!(
        (&read.model[..], &read.optimizer[..]),
        (&b"weights"[..], &b"moments"[..])
    );
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        2,
        "nothing temporary is left"
    );
}

/// In memory it is the same file, to the byte.
#[test]
fn the_bytes_in_memory_are_those_of_the_file() {
    let (_run, [_, path]) = two();
    let whole = fs::read(path).unwrap();
    let read = Checkpoint::from_bytes(&whole).unwrap();
    assert_eq!(read.to_bytes().unwrap(), whole);
    assert_eq!(read.path(), Path::new(""));
    assert!(matches!(
        Checkpoint::from_bytes(b"\x89PNG"),
        Err(CheckpointFault::Foreign { .. })
    ));
}

/// A right checksum over two sections of one name: which of them would count?
#[test]
fn a_section_that_appears_twice_is_refused() {
    let mut bytes = Vec::new();
    container::put(&mut bytes, &[("loop", b"{}"), ("loop", b"[]")]).unwrap();
    let fault = container::parse(&bytes).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "cannot be used: section \"loop\" appears twice"
    );
}

/// Messages go to terminals and logs, whatever the file holds.
#[test]
fn what_a_message_repeats_of_a_file_is_bounded() {
    let long = format!("\"{}\"", "x".repeat(100_000));
    let mut bytes = Vec::new();
    container::put(&mut bytes, &[("loop", long.as_bytes())]).unwrap();
    let fault = Checkpoint::from_bytes(&bytes).unwrap_err().to_string();
    assert!(fault.contains("xxx") && fault.len() < 500, "{fault}");
}

#[test]
fn a_bit_flipped_at_any_offset_is_refused_and_the_one_before_is_offered() {
    let (_run, [older, path]) = two();
    let whole = fs::read(&path).unwrap();
    for offset in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[offset] ^= 1 << (offset % 8);
        let found = container::parse(&flipped).err();
        assert!(
            matches!(
                (offset, &found),
                (0..8, Some(CheckpointFault::Foreign { .. }))
                    | (8..12, Some(CheckpointFault::Version { .. }))
                    | (
                        12..24,
                        Some(CheckpointFault::Length { .. } | CheckpointFault::Malformed { .. })
                    )
                    | (
                        24..,
                        Some(CheckpointFault::Length { .. } | CheckpointFault::Checksum)
                    )
            ),
            "offset {offset}: {found:?}"
        );
        // The same through the file system, for every eighth.
        if offset % 8 == 0 {
            fs::write(&path, &flipped).unwrap();
            let error = Checkpoint::open(&path).unwrap_err().to_string();
            let newer = (8..12).contains(&offset);
            let offered = error.contains(&older.display().to_string());
            assert!(offered || newer, "offset {offset}: {error}");
        }
    }
}

#[test]
fn a_checkpoint_cut_at_any_length_is_refused() {
    let (_run, [older, path]) = two();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        let found = container::parse(&whole[..length]).err();
        assert!(
            matches!(found, Some(CheckpointFault::Length { .. })),
            "{length} bytes: {found:?}"
        );
    }
    let longer = [&whole[..], b"\0"].concat();
    assert!(matches!(
        container::parse(&longer),
        Err(CheckpointFault::Length { .. })
    ));
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(fault(&path), CheckpointFault::Length { .. }));
    fs::write(&path, b"").unwrap();
    assert!(matches!(
        fault(&path),
        CheckpointFault::Length { found: 0, .. }
    ));
    // With the older one damaged too, none is offered.
    fs::write(&older, b"").unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("no older one of this run is whole"),
        "{error}"
    );
}

#[test]
fn another_programs_file_and_a_newer_version_are_told_apart() {
    let (_run, [_, path]) = two();
    fs::write(&path, b"\x89PNG\r\n and so on").unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("no checkpoint: it begins with \".PNG"),
        "{error}"
    );
    checkpoint(20).write(&path).unwrap();
    let mut newer = fs::read(&path).unwrap();
    let version = container::VERSION + 1;
    newer[8..12].copy_from_slice(&version.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        error.contains(&format!("format version {version}")) && error.contains("or a newer one"),
        "{error}"
    );
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        fault(&path),
        CheckpointFault::Io {
            action: "opened",
            ..
        }
    ));
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        fault(&path),
        CheckpointFault::Io { .. } | CheckpointFault::Length { .. }
    ));
}

/// A file with a right checksum and these sections instead of its own.
fn forged(change: impl FnOnce(&mut container::Sections)) -> Result<Checkpoint, CheckpointFault> {
    let (_run, [_, path]) = two();
    let mut sections = container::read(&path).unwrap();
    change(&mut sections);
    Checkpoint::from_sections(sections)
}

#[test]
fn contents_that_make_no_sense_are_refused_although_the_checksum_matches() {
    let put = |name: &'static str, bytes: Vec<u8>| {
        move |sections: &mut container::Sections| {
            sections.insert(name.into(), bytes);
        }
    };
    let refused = |name, bytes| {
        matches!(
            forged(put(name, bytes)),
            Err(CheckpointFault::Malformed { .. })
        )
    };
    assert!(forged(|_| ()).is_ok());
    for name in SECTIONS {
        let gone = forged(|sections| {
            sections.remove(name);
        });
        assert!(
            matches!(gone, Err(CheckpointFault::Malformed { .. })),
            "{name}"
        );
    }
    assert!(refused("loop", b"{}".to_vec()) && refused("loop", b"[[[[".repeat(10_000)));
    assert!(refused("settings", b"\xff".to_vec()) && refused("windows", vec![0; 71]));
    assert!(refused("windows", vec![255; 72]), "a counter of 2^64");
    let unclear = [vec![0; 64], vec![2; 8]].concat();
    assert!(refused("windows", unclear), "neither clipped nor not");
    // Shapes that claim more than there is, or wrap around.
    for (rows, columns, width) in [
        (1, 3, 4),
        (u64::MAX, 2, 8),
        (1 << 32, 1 << 32, 4),
        (1, 2, 3),
    ] {
        assert!(refused(
            "carried",
            state_bytes(rows, columns, width, &[0; 8])
        ));
    }
    assert!(refused("carried", vec![0; 23]));
    for (field, value) in [
        ("step", "281474976710656"),
        ("epoch", "0"),
        ("shrink", "0.0"),
        ("cursor", r#"{"start": 6, "next_loss": 5}"#),
    ] {
        let changed = forged(|sections| {
            let mut state: serde_json::Value = serde_json::from_slice(&sections["loop"]).unwrap();
            state[field] = serde_json::from_str(value).unwrap();
            sections.insert("loop".into(), serde_json::to_vec(&state).unwrap());
        });
        assert!(
            matches!(changed, Err(CheckpointFault::Malformed { .. })),
            "{field}"
        );
    }
}

/// What cannot be written faithfully, such as a policy's infinity, is found before the file takes its name.
#[test]
fn a_state_that_does_not_survive_being_written_is_refused() {
    let (run, [_, path]) = two();
    let mut bad = checkpoint(20);
    bad.state.sums.loss = f64::NAN;
    let before = fs::read(&path).unwrap();
    assert!(matches!(
        bad.write(&path),
        Err(CheckpointFault::Malformed { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(Checkpoint::list(run.path()).len(), 2);
}

#[test]
fn the_newest_and_the_best_are_kept_and_unfinished_files_go() {
    let run = tempfile::tempdir().unwrap();
    let config = CheckpointConfig::new(run.path());
    fs::create_dir(config.folder()).unwrap();
    let names = [
        "epoch-0-step-0",
        "epoch-1-step-50",
        "step-60",
        "step-70",
        "step-100",
        "epoch-2-step-100",
    ];
    for name in names {
        fs::write(config.folder().join(format!("{name}.ckpt")), "").unwrap();
    }
    for other in [
        "step-90.ckpt.tmp",
        "model-1.bpk",
        "notes.txt",
        "step-x.ckpt",
    ] {
        fs::write(config.folder().join(other), "").unwrap();
    }
    let listed: Vec<String> = Checkpoint::list(run.path())
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut expected = names.to_vec();
    expected.reverse();
    assert_eq!(
        listed, expected,
        "newest first, an epoch's end after its middle"
    );
    let report = |epoch, loss| EpochReport {
        epoch,
        valid_loss: Some(loss),
        ..EpochReport::default()
    };
    remove_temporary(&config.folder());
    prune(
        &config,
        &config.folder().join("epoch-2-step-100.ckpt"),
        &[report(1, 3.0), report(2, 4.0)],
    );
    let mut left: Vec<String> = fs::read_dir(config.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort_unstable();
    let kept = [
        "epoch-1-step-50.ckpt",
        "epoch-2-step-100.ckpt",
        "model-1.bpk",
        "notes.txt",
        "step-100.ckpt",
        "step-x.ckpt",
    ];
    assert_eq!(left, kept);
}
