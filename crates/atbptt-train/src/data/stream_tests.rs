use proptest::prelude::*;

use super::*;

/// Tokens 0, 1, 2, …: an id is its own position.
fn counting(tokens: usize) -> Arc<dyn TokenStore> {
    Arc::new((0..tokens as u32).collect::<Vec<_>>())
}

/// 11 tokens in 2 sequences: 0 1 2 3 4 | 5 6 7 8 9, token 10 dropped.
#[test]
fn training_layout_trims_the_remainder() {
    let stream = TokenStream::for_training(counting(11), 2).unwrap();
    assert_eq!(
        (stream.batch_size(), stream.steps(), stream.targets()),
        (2, 4, 8)
    );
    let window = stream.window(1, 3).unwrap();
    assert_eq!(window.inputs, [1, 2, 3, 6, 7, 8]);
    assert_eq!(window.targets, [2, 3, 4, 7, 8, 9]);
    assert_eq!(window.valid, [3, 3]);
}

/// 11 tokens have 10 targets; 3 sequences take 4, 3 and 3 of them: 1-4 | 5-7 | 8-10.
#[test]
fn exact_layout_masks_the_last_step_of_shorter_sequences() {
    let stream = TokenStream::exact(counting(11), 3).unwrap();
    assert_eq!((stream.steps(), stream.targets()), (4, 10));
    let window = stream.window(2, 2).unwrap();
    assert_eq!(window.targets, [3, 4, 7, 0, 10, 0]);
    assert_eq!(window.inputs, [2, 3, 6, 0, 9, 0]);
    assert_eq!(
        (window.valid.as_slice(), window.count()),
        ([2, 1, 1].as_slice(), 4)
    );
}

#[test]
fn gather_starts_every_sequence_where_it_is_told() {
    let stream = TokenStream::for_training(counting(20), 2).unwrap();
    let window = stream.gather(&[0, 6], 3).unwrap();
    assert_eq!(window.inputs, [0, 1, 2, 16, 17, 18]);
    assert_eq!(stream.full_starts(3).unwrap(), 0..7);
    assert!(matches!(
        stream.gather(&[0, 7], 3),
        Err(DataError::WindowTooLong {
            start: 7,
            len: 3,
            steps: 9
        })
    ));
    assert!(matches!(
        stream.gather(&[0], 3),
        Err(DataError::StartCount { batch: 2, got: 1 })
    ));
}

#[test]
fn batches_and_windows_that_do_not_fit_are_errors() {
    for build in [TokenStream::for_training, TokenStream::exact] {
        assert!(matches!(build(counting(10), 0), Err(DataError::EmptyBatch)));
        assert!(matches!(
            build(counting(0), 1),
            Err(DataError::BatchTooLarge { tokens: 0, .. })
        ));
        assert!(matches!(
            build(counting(10), usize::MAX),
            Err(DataError::BatchTooLarge { .. })
        ));
        let stream = build(counting(10), 2).unwrap();
        assert!(matches!(stream.window(0, 0), Err(DataError::EmptyWindow)));
        assert!(matches!(stream.full_starts(0), Err(DataError::EmptyWindow)));
        for (start, len) in [(0, 6), (5, 1), (usize::MAX, 1), (1, usize::MAX)] {
            let found = stream.window(start, len);
            assert!(
                matches!(found, Err(DataError::WindowTooLong { .. })),
                "{start}, {len}: {found:?}"
            );
        }
    }
    assert!(matches!(
        TokenStream::for_training(counting(10), 6),
        Err(DataError::BatchTooLarge {
            batch: 6,
            needed: 12,
            tokens: 10
        })
    ));
    // Both sides of the boundary.
    assert!(TokenStream::for_training(counting(12), 6).is_ok());
    assert!(TokenStream::exact(counting(10), 9).is_ok());
    assert!(TokenStream::exact(counting(10), 10).is_err());
}

/// The windows of `len` steps one after the other, the last one shorter.
fn all_windows(stream: &TokenStream, len: usize) -> Vec<Window> {
    let steps = stream.steps();
    (0..steps)
        .step_by(len)
        .map(|start| stream.window(start, len.min(steps - start)).unwrap())
        .collect()
}

proptest! {
    #[test]
    fn prop_exact_counts_every_token_but_the_first_once(
        tokens in 2_usize..400, batch in 1_usize..20, len in 1_usize..50,
    ) {
        prop_assume!(batch < tokens);
        let stream = TokenStream::exact(counting(tokens), batch).unwrap();
        let mut seen = Vec::new();
        for window in all_windows(&stream, len) {
            for (b, &valid) in window.valid.iter().enumerate() {
                for t in 0..valid {
                    let target = window.targets[b * window.time + t];
                    prop_assert_eq!(window.inputs[b * window.time + t], target - 1);
                    seen.push(target);
                }
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(stream.targets(), tokens - 1);
        prop_assert_eq!(seen, (1..tokens as i64).collect::<Vec<_>>());
    }

    #[test]
    fn prop_training_windows_concatenate_to_the_text(
        tokens in 2_usize..400, batch in 1_usize..20, len in 1_usize..50,
    ) {
        prop_assume!(batch * 2 <= tokens);
        let stream = TokenStream::for_training(counting(tokens), batch).unwrap();
        let mut rows = vec![Vec::new(); batch];
        for window in all_windows(&stream, len) {
            prop_assert!(window.valid.iter().all(|&valid| valid == window.time));
            for (row, part) in rows.iter_mut().zip(window.inputs.chunks(window.time)) {
                row.extend_from_slice(part);
            }
        }
        let per_sequence = tokens / batch;
        for (b, row) in rows.iter().enumerate() {
            let start = (b * per_sequence) as i64;
            prop_assert_eq!(row, &(start..start + per_sequence as i64 - 1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn prop_gather_agrees_with_window_at_equal_starts(
        tokens in 20_usize..200, batch in 1_usize..6, start in 0_usize..40, len in 1_usize..40,
    ) {
        for build in [TokenStream::for_training, TokenStream::exact] {
            let stream = build(counting(tokens), batch).unwrap();
            match (stream.window(start, len), stream.gather(&vec![start; batch], len)) {
                (Ok(window), Ok(gathered)) => prop_assert_eq!(window, gathered),
                (Err(_), Err(_)) => prop_assert!(start + len > stream.steps()),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
