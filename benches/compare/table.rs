//! One line per case: its name, the ratio ours/theirs in tokens per second, and both sides' numbers.

use crate::cases::{Measured, median};

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
        "ours on {device}; {peer}; medians over rounds; memory: peak resident set of a process that ran the case alone"
    );
    for name in names {
        match (side(ours, name), side(theirs, name)) {
            (Some(us), Some(them)) => println!(
                "{name:<36} {:>6.2}x   {:>9.1} ms  {:>9.1} ms   {:>8.0} tokens/s  {:>8.0} tokens/s   {:>5.0} MB  {:>5.0} MB",
                them[0] / us[0],
                1e3 * us[0],
                1e3 * them[0],
                us[1],
                them[1],
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

/// Seconds, tokens per second and memory, medians over rounds. Tokens per second are those of the median time.
fn side(all: &[Measured], case: &str) -> Option<[f64; 3]> {
    let found = || all.iter().filter(|measured| measured.case == case);
    let tokens = found()
        .next()
        .map(|one| one.tokens_per_second * one.seconds)?;
    let seconds = median(found().map(|one| one.seconds).collect())?;
    let memory = median(found().map(|one| one.rss_mb).collect())?;
    Some([seconds, tokens / seconds, memory])
}
