//! One line per case: its name, the ratio ours/theirs in tokens per second, and both sides' numbers.

use crate::cases::Measured;

pub fn print(ours: &[Measured], theirs: &[Measured]) {
    let mut names: Vec<&str> = Vec::new();
    for measured in ours.iter().chain(theirs) {
        if !names.contains(&measured.case.as_str()) {
            names.push(&measured.case);
        }
    }
    let peer = theirs.first().map_or("peer", |peer| peer.peer.as_str());
    let device = ours.first().map_or("", |us| us.device.as_str());
    println!(
        "ours on {device}; {peer}; medians over rounds; memory: peak resident set of the process so far"
    );
    for name in names {
        match (side(ours, name), side(theirs, name)) {
            (Some(us), Some(them)) => println!(
                "{name:<36} {:>6.2}x   {:>9.1} ms  {:>9.1} ms   {:>8.0} tokens/s  {:>8.0} tokens/s   {:>5.0} MB  {:>5.0} MB",
                us[0] / them[0],
                1e3 * us[1],
                1e3 * them[1],
                us[0],
                them[0],
                us[2],
                them[2],
            ),
            (us, _) => {
                let missing = if us.is_none() { "our" } else { "the peer's" };
                println!("{name:<36} no ratio: {missing} side did not print this case");
            }
        }
    }
}

/// Tokens per second, seconds and memory, each the median over rounds.
fn side(all: &[Measured], case: &str) -> Option<[f64; 3]> {
    let found: Vec<&Measured> = all
        .iter()
        .filter(|measured| measured.case == case)
        .collect();
    let median = |value: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = found.iter().map(|&measured| value(measured)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some([
        median(|measured| measured.tokens_per_second)?,
        median(|measured| measured.seconds)?,
        median(|measured| measured.rss_mb)?,
    ])
}
