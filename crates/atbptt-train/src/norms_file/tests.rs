use super::*;
use proptest::strategy::Strategy as _;

fn read(text: &str) -> Result<LagNormsFile, NormsFileError> {
    LagNormsFile::from_slice(text.as_bytes())
}

fn message(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

#[test]
fn all_three_forms_give_the_same_norms() {
    let bare = read("[[1, 2.5], [0.5, 1e-3]]").unwrap();
    let object = read(r#"{"note": {"a": [1]}, "gradient_norms": [[1, 2.5], [0.5, 1e-3]]}"#);
    let listed = read(r#"{"cases": [{"gradient_norms": [[1, 2.5], [0.5, 1e-3]], "tau": 1}]}"#);
    let listed = listed.unwrap();
    assert_eq!(bare.cases[0].norms.row(1), [0.5, 1e-3]);
    assert_eq!(bare, object.unwrap());
    assert_eq!(bare.cases[0].norms, listed.cases[0].norms);
    assert_eq!((bare.cases[0].tau, listed.cases[0].tau), (None, Some(1)));
    let marked = LagNormsFile::from_slice(b"\xEF\xBB\xBF[[1, 2.5], [0.5, 1e-3]]").unwrap();
    assert_eq!(marked, bare);
}

#[test]
fn mean_sums_come_along_and_are_checked() {
    let with = |sizes: &str| {
        read(&format!(
            r#"{{"mean_sum_norms": {sizes}, "gradient_norms": [[1], [2]]}}"#
        ))
    };
    let file = with("[0, 1, 3]").unwrap();
    assert_eq!(
        file.cases[0].norms.mean_sum_norms(),
        Some([0.0, 1.0, 3.0].as_slice())
    );
    assert_eq!(with("null").unwrap().cases[0].norms.mean_sum_norms(), None);
    assert!(matches!(
        with("[0, 1]"),
        Err(NormsFileError::Sizes { case: None, .. })
    ));
}

#[test]
fn norms_that_are_none_are_named_with_their_position() {
    // (text, lag, sequence, line)
    let rows = [
        ("[[1, -2]]", 0, 1, 1),
        ("[[1, 2],\n [3, NaN]]", 1, 1, 2),
        ("[[1, 2],\n [nan, 3]]", 1, 0, 2),
        ("[[1, Infinity]]", 0, 1, 1),
        ("[[1,\n-Infinity]]", 0, 1, 2),
        ("[[1e999]]", 0, 0, 1),
    ];
    for (text, lag, sequence, line) in rows {
        match read(text).unwrap_err() {
            NormsFileError::NotANorm {
                lag: l,
                sequence: s,
                line: at,
                ..
            } => {
                assert_eq!((l, s, at), (lag, sequence, line), "{text}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn wrong_shapes_name_the_place() {
    // (text, what the message says)
    let rows = [
        (
            "[[1, 2], [3]]",
            "lag row 1 (line 1) has 1 norms, lag row 0 has 2",
        ),
        (
            "[[1, 2], [3, 4, 5]]",
            "lag row 1 (line 1) has 3 norms, lag row 0 has 2",
        ),
        ("[[1], 2]", "lag row 1 (line 1, column"),
        ("[1, 2]", "lag row 0 (line 1, column"),
        ("[[1], [null]]", "lag row 1, sequence 0"),
        (r#"[[1], ["x"]]"#, "lag row 1, sequence 0"),
        ("[[[1]]]", "lag row 0, sequence 0"),
        ("3", "the top of the structure"),
        ("{}", "neither `gradient_norms` nor `cases`"),
        (
            r#"{"cases": [{"tau": 3}]}"#,
            "case 0, the top of the structure",
        ),
        (
            r#"{"cases": [{"gradient_norms": [[1]]}, []]}"#,
            "case 1, the top of the structure",
        ),
        (
            r#"{"cases": [], "gradient_norms": [[1]]}"#,
            "both `gradient_norms` and `cases`",
        ),
        (
            r#"{"gradient_norms": [[1]], "gradient_norms": [[1]]}"#,
            "appears twice",
        ),
        (r#"{"gradient_norms": [[1]], "tau": -1}"#, "`tau`"),
        (r#"{"gradient_norms": [[1]], "tau": 2.5}"#, "`tau`"),
        ("[]", "the list of lag rows is empty"),
        ("[[], []]", "lag row 0 is empty"),
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
            NormsFileError::NotJson { line: at, .. } => assert_eq!(at, line, "{text}"),
            other => panic!("{text}: {other}"),
        }
    }
    assert!(matches!(
        LagNormsFile::from_slice(b"\xFF\x00"),
        Err(NormsFileError::NotJson { .. })
    ));
}

#[test]
fn hostile_sizes_and_nesting_end_in_an_error() {
    let deep = "[".repeat(1 << 20);
    assert!(read(&deep).is_err());
    let hidden = format!("{{\"x\": {}", "[".repeat(1 << 20));
    assert!(read(&hidden).is_err());
    let long = format!("[{}[1]]", "[1],".repeat(MAX_LAGS));
    assert!(matches!(
        read(&long),
        Err(NormsFileError::TooLarge { what: "lags", .. })
    ));
    let endless = io::repeat(b' ');
    let error = LagNormsFile::from_reader(endless).unwrap_err();
    assert!(matches!(
        error,
        NormsFileError::TooLarge { what: "bytes", .. }
    ));
    // A message never repeats much of the input.
    let quoted = message(&format!("[[\"{}\"]]", "x".repeat(100_000)));
    assert!(quoted.len() < 600, "{}", quoted.len());
}

proptest::proptest! {
    #[test]
    fn prop_reading_is_total(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        LagNormsFile::from_slice(&bytes).ok();
    }

    #[test]
    fn prop_reading_is_total_on_what_looks_like_norms(text in r#"[\[\]{},:"0-9eE.\-nNaInfity \n]{0,80}"#) {
        LagNormsFile::from_slice(text.as_bytes()).ok();
    }

    #[test]
    fn prop_norms_survive_being_written(
        rows in (1usize..6).prop_flat_map(|n| proptest::collection::vec(
            proptest::collection::vec(0.0f64..1e300, n), 1..9,
        )),
    ) {
        let text = serde_json::to_string(&rows).unwrap();
        let file = read(&text).unwrap();
        for (lag, row) in rows.iter().enumerate() {
            proptest::prop_assert_eq!(file.cases[0].norms.row(lag), row.as_slice());
        }
    }
}
