//! CSV tables: numbers are finite, rows complete, and every refusal says where.
//!
//! Bytes: options (delimiter; then decimal comma, header and rows left out, bit by bit), then the file.

use atbptt_train::data::{Missing, Normalisation, SeriesSet, Table, TableOptions};

use super::check_message;

pub fn table(data: &[u8]) {
    let [delimiter, bits, text @ ..] = data else {
        return;
    };
    let options = TableOptions::default()
        .with_delimiter(char::from(*delimiter))
        .with_decimal_comma(bits & 1 != 0)
        .with_header(bits & 2 == 0)
        .with_drop_last(usize::from(bits >> 6));
    let columns = match bits & 2 {
        0 => ["a", "b"],
        _ => ["1", "2"],
    };
    let table = match Table::from_reader(text, "the file", &columns, &options) {
        Ok(table) => table,
        Err(error) => return check_message(&error),
    };
    assert!(table.rows() > 0 && table.columns() == columns);
    for row in 0..table.rows() {
        for column in 0..2 {
            assert!(
                table
                    .value(row, column)
                    .is_none_or(|value| (value as f32).is_finite())
            );
        }
    }
    let [inputs, targets] = columns.map(|column| [column]);
    let horizon = usize::from(bits >> 4 & 3);
    let rules = [Missing::Refuse, Missing::CarryForward, Missing::Mask];
    for missing in rules {
        let series = match table.series(&inputs, &targets, horizon, missing, missing) {
            Ok(series) => series,
            Err(error) => {
                check_message(&error);
                continue;
            }
        };
        assert_eq!(series.steps(), table.rows());
        let targets = series.targets().iter().filter(|target| !target.is_nan());
        assert!(missing == Missing::Mask || targets.count() == table.rows() - horizon);
        let set = SeriesSet::new(vec![series]).expect("a series of one step or more");
        match Normalisation::fit(&set) {
            Ok(normalisation) => match normalisation.apply(&set) {
                Ok(normalised) => assert_eq!(normalised.total_steps(), set.total_steps()),
                Err(error) => check_message(&error),
            },
            Err(error) => check_message(&error),
        }
    }
}
