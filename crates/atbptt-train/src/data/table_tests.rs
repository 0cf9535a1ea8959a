use super::*;
use crate::data::real_data;
use proptest::prelude::*;

fn read(text: &str, columns: &[&str], options: &TableOptions) -> Result<Table, TableError> {
    Table::from_reader(text.as_bytes(), "here", columns, options)
}

fn plain(text: &str, columns: &[&str]) -> Result<Table, TableError> {
    read(text, columns, &TableOptions::default())
}

#[test]
fn columns_are_read_by_name_and_the_others_may_hold_anything() {
    let table = plain(
        "\u{feff}day, \"flow\" ,level,\nMon,1.5,2,x\nTue,-1e3,4,\n",
        &["level", "flow"],
    )
    .unwrap();
    assert_eq!(
        (table.rows(), table.columns()),
        (2, &["level".to_string(), "flow".into()][..])
    );
    assert_eq!(
        (table.value(1, 0), table.value(1, 1)),
        (Some(4.0), Some(-1000.0))
    );
    assert_eq!(
        (
            table.value(2, 0),
            table.value(0, 2),
            table.value(usize::MAX, 1)
        ),
        (None, None, None)
    );
}

#[test]
fn delimiter_decimal_comma_and_header_are_options() {
    let options = TableOptions::default()
        .with_delimiter(';')
        .with_decimal_comma(true);
    let table = read("a;b\n1,25;-0,5\n", &["b", "a"], &options).unwrap();
    assert_eq!(
        (table.value(0, 0), table.value(0, 1)),
        (Some(-0.5), Some(1.25))
    );
    let options = TableOptions::default()
        .with_delimiter('\t')
        .with_header(false)
        .with_drop_last(1);
    let table = read("\u{feff}1\t2\n3\t4\n0\t0\n", &["2", "1"], &options).unwrap();
    assert_eq!(
        (table.rows(), table.value(1, 0), table.value(0, 1)),
        (2, Some(4.0), Some(1.0))
    );
}

#[test]
fn columns_lined_up_by_blanks_are_read_below_lines_about_the_file() {
    let options = TableOptions::default()
        .with_delimiter(' ')
        .with_skip_first(2);
    let text = "45.06 degrees\n318\nYear  flow(mm)\n1980\t  1.50\n  1981   x\n";
    let found = read(text, &["flow(mm)"], &options).unwrap_err().to_string();
    assert!(
        found.contains("row 2 (line 5), column \"flow(mm)\": \"x\""),
        "{found}"
    );
    let table = read(&text.replace('x', "-2e1"), &["flow(mm)", "Year"], &options).unwrap();
    assert_eq!(
        (
            table.rows(),
            table.value(0, 0),
            table.value(1, 0),
            table.value(1, 1)
        ),
        (2, Some(1.5), Some(-20.0), Some(1981.0))
    );
    let found = plain("Year  flow\n1980  1.5\n", &["flow"])
        .unwrap_err()
        .to_string();
    assert!(found.contains("a blank is the delimiter"), "{found}");
}

#[test]
fn missing_values_are_refused_carried_forward_or_masked_by_rule() {
    let table = plain("a,b\n1,\n na ,5\n3,NaN\n", &["a", "b"]).unwrap();
    let series = |inputs, targets| table.series(&["a"], &["b"], 0, inputs, targets);
    let filled = series(Missing::CarryForward, Missing::Mask).unwrap();
    assert_eq!(filled.inputs(), [1.0, 1.0, 3.0]);
    let [first, second, third] = filled.targets() else {
        panic!()
    };
    assert!(first.is_nan() && *second == 5.0 && third.is_nan());
    let message = |inputs, targets| series(inputs, targets).unwrap_err().to_string();
    let found = message(Missing::Refuse, Missing::Mask);
    assert!(
        found.contains("row 2 (line 3), column \"a\"") && found.contains("carry"),
        "{found}"
    );
    let found = message(Missing::Mask, Missing::Mask);
    assert!(found.contains("only targets can be masked"), "{found}");
    let found = message(Missing::CarryForward, Missing::Refuse);
    assert!(
        found.contains("row 1 (line 2), column \"b\"") && found.contains("mask"),
        "{found}"
    );
    let found = message(Missing::CarryForward, Missing::CarryForward);
    assert!(found.contains("no value stands before it"), "{found}");
    let own = TableOptions::default().with_missing(["-999"]);
    let table = read("a\n-999\n1\n", &["a"], &own).unwrap();
    assert_eq!((table.value(0, 0), table.value(1, 0)), (None, Some(1.0)));
}

#[test]
fn with_a_horizon_targets_come_from_later_rows() {
    let table = plain("a\n1\n2\n3\n", &["a"]).unwrap();
    let series = table
        .series(&["a"], &["a"], 2, Missing::Refuse, Missing::Refuse)
        .unwrap();
    assert_eq!(series.inputs(), [1.0, 2.0, 3.0]);
    assert_eq!(series.targets()[0], 3.0);
    assert!(series.targets()[1..].iter().all(|target| target.is_nan()));
    let found = table.series(&["a"], &["a"], 3, Missing::Refuse, Missing::Refuse);
    assert!(matches!(
        found,
        Err(TableError::Horizon {
            rows: 3,
            horizon: 3,
            ..
        })
    ));
    assert!(
        table
            .series(&["b"], &["a"], 0, Missing::Refuse, Missing::Refuse)
            .is_err()
    );
}

#[test]
fn every_error_names_its_place_and_the_remedy() {
    let semicolons = TableOptions::default().with_delimiter(';');
    for (found, parts) in [
        (
            plain("a,b\n1,2\n3,4x\n", &["b"]),
            vec!["row 2 (line 3), column \"b\"", "4x", "no finite number"],
        ),
        (
            plain("a,b\n1,2\n3\n", &["b"]),
            vec!["row 2 (line 3)", "1 columns", "2"],
        ),
        (plain("a\n1e39\n", &["a"]), vec!["row 1 (line 2)", "1e39"]),
        (plain("a\ninf\n", &["a"]), vec!["no finite number"]),
        (
            read("a\n1,5\n", &["a"], &semicolons),
            vec!["decimals written with a comma?"],
        ),
        (
            read(
                "a\n1.5\n",
                &["a"],
                &semicolons.clone().with_decimal_comma(true),
            ),
            vec!["decimals written with a point?"],
        ),
        (
            plain("a;b\n1;2\n", &["b"]),
            vec!["no column \"b\"", "\"a;b\"", "is `;` the delimiter?"],
        ),
        (
            plain("a,b\n1,2\n", &["c"]),
            vec!["no column \"c\"", "\"a\", \"b\""],
        ),
        (
            plain("a,a\n1,2\n", &["a"]),
            vec!["more than one column \"a\""],
        ),
        (plain("a\n", &["a"]), vec!["no row of values"]),
        (plain("", &["a"]), vec!["no column \"a\"", "none"]),
        (
            read(
                "a\n1\n",
                &["a"],
                &semicolons.clone().with_delimiter('\u{20ac}'),
            ),
            vec!["the delimiter"],
        ),
        (
            read(
                "a\n1\n",
                &["a"],
                &TableOptions::default().with_decimal_comma(true),
            ),
            vec!["`;`"],
        ),
    ] {
        let text = found.unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(!text.contains('\n') && text.len() < 1000, "{text}");
    }
    let found = Table::from_path("no/such/file.csv", &["a"], &TableOptions::default());
    assert!(
        found
            .unwrap_err()
            .to_string()
            .starts_with("cannot open no/such/file.csv")
    );
}

/// A quoted field that holds a line break: lines are those of the file.
#[test]
fn lines_are_those_of_the_file() {
    let text = plain("a,b\n\"x\ny\",1\nz,no\n", &["b"])
        .unwrap_err()
        .to_string();
    assert!(text.contains("row 2 (line 4)"), "{text}");
}

#[test]
fn lines_are_counted_whatever_they_end_with() {
    for end in ["\n", "\r\n"] {
        let text = format!("a,b{end}1,\"x{end}y\"{end}2,z{end}no,z{end}");
        let found = plain(&text, &["a"]).unwrap_err().to_string();
        assert!(found.contains("row 3 (line 5)"), "{end:?}: {found}");
        let text = format!("a{end}no{end}");
        let found = plain(&text, &["a"]).unwrap_err().to_string();
        assert!(found.contains("row 1 (line 2)"), "{end:?}: {found}");
    }
}

#[test]
fn the_cascaded_tanks_and_the_breathing_recordings_are_read() {
    if let Some(folder) = real_data("tanks") {
        let table = Table::from_path(
            folder.join("dataBenchmark.csv"),
            &["uEst", "yEst", "Ts"],
            &TableOptions::default(),
        )
        .unwrap();
        assert_eq!((table.rows(), table.value(1, 1)), (1024, Some(5.2154)));
        // Only the first row says how long a step is.
        assert_eq!((table.value(0, 2), table.value(1, 2)), (Some(4.0), None));
    }
    if let Some(folder) = real_data("breathing") {
        let options = TableOptions::default()
            .with_delimiter(';')
            .with_decimal_comma(true)
            .with_drop_last(1);
        let path = folder.join("201205101519-LAC.csv");
        let table = Table::from_path(path, &["x", "y", "z"], &options).unwrap();
        assert_eq!(
            (table.rows(), table.value(0, 0), table.value(2219, 2)),
            (2220, Some(-490.7), Some(66.9))
        );
    }
}

proptest! {
    /// What was written with either point is read back to the bit.
    #[test]
    fn prop_numbers_survive(numbers in proptest::collection::vec(-1e30f64..1e30, 1..20), comma in any::<bool>()) {
        let mut text = String::from("n\n");
        for number in &numbers {
            let number = number.to_string();
            text += &(if comma { number.replace('.', ",") } else { number } + "\n");
        }
        let options = TableOptions::default().with_delimiter(';').with_decimal_comma(comma);
        let table = read(&text, &["n"], &options).unwrap();
        for (row, number) in numbers.iter().enumerate() {
            prop_assert_eq!(table.value(row, 0), Some(*number));
        }
    }
}
