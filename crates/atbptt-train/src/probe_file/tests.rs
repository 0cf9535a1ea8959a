use super::*;
use proptest::strategy::Strategy as _;

fn read(text: &str) -> Result<Vec<ProbeCase>, ProbeFileError> {
    from_slice(text.as_bytes())
}

fn message(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn norms(cases: &[ProbeCase]) -> &LagNorms {
    cases[0].norms.as_ref().unwrap()
}

#[test]
fn all_three_forms_give_the_same_norms() {
    let bare = read("[[1, 2.5], [0.5, 1e-3]]").unwrap();
    let object = read(r#"{"note": {"a": [1]}, "gradient_norms": [[1, 2.5], [0.5, 1e-3]]}"#);
    let listed = read(r#"{"cases": [{"gradient_norms": [[1, 2.5], [0.5, 1e-3]], "tau": 1}]}"#);
    let listed = listed.unwrap();
    assert_eq!(norms(&bare).row(1), [0.5, 1e-3]);
    assert_eq!(bare, object.unwrap());
    assert_eq!(norms(&bare), norms(&listed));
    assert_eq!((bare[0].tau, listed[0].tau), (None, Some(1)));
    let marked = from_slice(b"\xEF\xBB\xBF[[1, 2.5], [0.5, 1e-3]]").unwrap();
    assert_eq!(marked, bare);
}

#[test]
fn sums_come_along_and_are_checked() {
    let with = |more: &str| {
        read(&format!(
            r#"{{{more}, "gradient_norms": [[1, 1], [2, 2]]}}"#
        ))
    };
    let sizes = r#""mean_sum_norms": [0, 1, 3]"#;
    let cases = with(sizes).unwrap();
    assert_eq!(
        norms(&cases).mean_sum_norms(),
        Some([0.0, 1.0, 3.0].as_slice())
    );
    let none = with(r#""mean_sum_norms": null"#).unwrap();
    assert_eq!(norms(&none).mean_sum_norms(), None);
    // U = (2 G² − q)/1.
    let cases = with(&format!(r#"{sizes}, "sum_squares": [0, 1.5, 10]"#)).unwrap();
    assert_eq!(
        norms(&cases).debiased_squares(),
        Some([0.0, 0.5, 8.0].as_slice())
    );
    for (more, said) in [
        (
            r#""mean_sum_norms": [0, 1]"#,
            "cumulative gradient sizes needs 3 values, got 2 at the top",
        ),
        (r#""sum_squares": [0, 1, 2]"#, "needs the cumulative sizes"),
        (
            r#""mean_sum_norms": [0, 1, 3], "sum_squares": [0, -1, 2]"#,
            "got -1 at 1 kept lags",
        ),
        (
            r#""mean_sum_norms": [0, "x"]"#,
            "at `mean_sum_norms[1]` (line 1, column",
        ),
    ] {
        let message = with(more).unwrap_err().to_string();
        assert!(message.contains(said), "{more}: {message}");
    }
}

#[test]
fn direct_statistics_are_read_and_checked() {
    let direct = |gram: &str| {
        read(&format!(
            r#"{{"cases": [{{"gradient_norms": [[1]]}}, {{"direct":
               {{"window": 6, "losses": 2, "contexts": [0, 5], "probes": 2, "gram": {gram}}}}}]}}"#
        ))
    };
    let cases = direct("[4, 0, 2, 0, 0, 1, 0, 1, 2, 0, 1, 0, 0, 1, 0, 1]").unwrap();
    assert!(cases[0].direct.is_none() && cases[1].norms.is_none());
    let statistics = cases[1].direct.as_ref().unwrap();
    assert_eq!(
        (
            statistics.window(),
            statistics.losses(),
            statistics.probes()
        ),
        (6, 2, 2)
    );
    // ⟨g_1, g_2⟩ = 2 + 0 + 0 + 1 and ⟨d_1, d_2⟩ = 1.
    assert_eq!(statistics.gradient_square(), 3.0);
    assert_eq!(statistics.bias_squares()[0], 1.0);
    for (gram, said) in [
        (
            "[1, 2]",
            "needs 16 values, got 2 at case 1, `direct` (line 2, column",
        ),
        ("[1, null]", "at case 1, `direct.gram[1]` (line 2, column"),
    ] {
        let message = direct(gram).unwrap_err().to_string();
        assert!(message.contains(said), "{gram}: {message}");
    }
    let missing = message(r#"{"direct": {"window": 6}}"#);
    assert!(
        missing.contains("missing field `losses` at `direct`"),
        "{missing}"
    );
}

#[test]
fn norms_that_are_none_are_named_with_their_position() {
    // (text, value, lag, sequence, line)
    let rows = [
        ("[[1, -2]]", "-2", 0, 1, 1),
        ("[[1, 2],\n [3, NaN]]", "NaN", 1, 1, 2),
        ("[[1, 2],\n [nan, 3]]", "NaN", 1, 0, 2),
        ("[[1, Infinity]]", "inf", 0, 1, 1),
        ("[[1,\n-Infinity]]", "-inf", 0, 1, 2),
        ("[[1e999]]", "inf", 0, 0, 1),
        ("{\"gradient_norms\":\n [[1, NaN]]}", "NaN", 0, 1, 2),
        (
            "{\"cases\": [{\"gradient_norms\": [[NaN]]}]}",
            "NaN",
            0,
            0,
            1,
        ),
    ];
    for (text, value, lag, sequence, line) in rows {
        let message = message(text);
        let case = if text.contains("cases") {
            "case 0, "
        } else {
            ""
        };
        let said = format!(
            "a gradient norm must be finite and at least 0, got {value} at {case}lag {lag}, sequence {sequence} (line {line}, "
        );
        assert!(message.starts_with(&said), "{text}: {message}");
        assert!(message.ends_with("; drop that sequence, or repair its backward pass"));
    }
}

#[test]
fn wrong_shapes_name_the_place() {
    // (text, what the message says)
    let rows = [
        (
            "[[1, 2], [3]]",
            "1 norms where lag row 0 has 2 at lag row 1 (line 1",
        ),
        (
            "[[1, 2], [3, 4, 5]]",
            "3 or more norms where lag row 0 has 2 at lag row 1 (line 1",
        ),
        ("[[1], 2]", "at lag row 1 (line 1, column"),
        ("[1, 2]", "at lag row 0 (line 1, column"),
        ("[[1], [null]]", "at lag 1, sequence 0"),
        (r#"[[1], ["x"]]"#, "at lag 1, sequence 0"),
        ("[[[1]]]", "at lag 0, sequence 0"),
        ("3", "at the top of the structure"),
        ("{}", "neither `gradient_norms` nor `cases`"),
        (
            r#"{"cases": [{"tau": 3}]}"#,
            "neither `gradient_norms` nor `cases` nor `direct` at case 0",
        ),
        (
            r#"{"cases": [{"gradient_norms": [[1]]}, 7]}"#,
            "at case 1 (line 1",
        ),
        (
            r#"{"cases": [{"cases": [{"gradient_norms": [[1]]}]}]}"#,
            "a case holds `cases` at case 0",
        ),
        (
            r#"{"cases": [{"gradient_norms": [[1]]}], "gradient_norms": [[1]]}"#,
            "both `gradient_norms` or `direct` and `cases`",
        ),
        (
            r#"{"gradient_norms": [[1]], "gradient_norms": [[1]]}"#,
            "duplicate field `gradient_norms`",
        ),
        (r#"{"gradient_norms": [[1]], "tau": -1}"#, "at `tau`"),
        (r#"{"gradient_norms": [[1]], "tau": 2.5}"#, "at `tau`"),
        ("[]", "the list of lag rows is empty"),
        ("[[], []]", "the first lag row is empty"),
        (r#"{"cases": []}"#, "the list of cases is empty"),
    ];
    for (text, said) in rows {
        let message = message(text);
        assert!(message.contains(said), "{text}: {message}");
    }
}

#[test]
fn what_is_no_json_is_named_with_line_and_column() {
    for (text, line) in [
        ("", 1),
        ("[[1,\n 2", 2),
        ("[[1]] x", 1),
        ("[[1 2]]", 1),
        ("{\"a\"\n3}", 2),
    ] {
        match read(text).unwrap_err() {
            ProbeFileError::NotJson { line: at, .. } => assert_eq!(at, line, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
    assert!(matches!(
        from_slice(b"\xFF\x00"),
        Err(ProbeFileError::NotJson { .. })
    ));
}

#[test]
fn hostile_sizes_and_nesting_end_in_an_error() {
    let deep = "[".repeat(1 << 20);
    assert!(read(&deep).is_err());
    let hidden = format!("{{\"x\": {}", "[".repeat(1 << 20));
    assert!(read(&hidden).is_err());
    let long = format!("[{}[1]]", "[1],".repeat(MAX_LAGS));
    assert!(message(&long).contains("more than 65536 lags at the top"));
    let cases = format!(r#"{{"cases": [{}{{}}]}}"#, "{},".repeat(1 << 20));
    assert!(message(&cases).contains("at case 0"));
    let endless = io::repeat(b' ');
    let error = from_reader(endless).unwrap_err();
    assert!(matches!(error, ProbeFileError::TooLarge { .. }));
    // A message never repeats much of the input.
    let quoted = message(&format!("[[\"{}\"]]", "x".repeat(100_000)));
    assert!(quoted.len() < 700, "{}", quoted.len());
}

proptest::proptest! {
    #[test]
    fn prop_reading_is_total(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        from_slice(&bytes).ok();
    }

    #[test]
    fn prop_reading_is_total_on_what_looks_like_norms(text in r#"[\[\]{},:"0-9eE.\-nNaInfity \n]{0,80}"#) {
        from_slice(text.as_bytes()).ok();
    }

    #[test]
    fn prop_norms_survive_being_written(
        rows in (1usize..6).prop_flat_map(|n| proptest::collection::vec(
            proptest::collection::vec(0.0f64..1e300, n), 1..9,
        )),
    ) {
        let text = serde_json::to_string(&rows).unwrap();
        let cases = read(&text).unwrap();
        for (lag, row) in rows.iter().enumerate() {
            proptest::prop_assert_eq!(norms(&cases).row(lag), row.as_slice());
        }
    }
}
