//! K from direct statistics.

use std::error::Error;

use atbptt::core::Scheme;
use atbptt::core::direct::{DirectEstimate, DirectStatistics};
use serde_json::{Value, json};

use crate::{Args, SchemeArg, finite, lengths, mark, number, table};

/// Standard errors of a 95 % interval.
const Z: f64 = 1.96;

/// What direct statistics say to every tolerance.
pub struct Answered<'a> {
    args: &'a Args,
    statistics: &'a DirectStatistics,
    scheme: Scheme,
    estimate: DirectEstimate,
}

impl<'a> Answered<'a> {
    pub fn new(args: &'a Args, statistics: &'a DirectStatistics) -> Result<Self, Box<dyn Error>> {
        let scheme = match args.scheme {
            SchemeArg::Strided => Scheme::Strided {
                losses: args.losses.unwrap_or(statistics.losses()),
            },
            SchemeArg::Overlapping => Scheme::Overlapping,
            SchemeArg::Chunked => Scheme::Chunked,
        };
        if args.losses.is_some() && !matches!(args.scheme, SchemeArg::Strided) {
            return Err("--losses belongs to --scheme strided; leave it out".into());
        }
        Ok(Self {
            args,
            statistics,
            scheme,
            estimate: statistics.estimate(scheme)?,
        })
    }

    /// Per tolerance: δ, K(δ), K to use, why.
    fn answers(&self) -> impl Iterator<Item = (f64, Option<usize>, usize, String)> {
        let k_max = self.args.k_max.unwrap_or(self.statistics.window());
        self.args.delta.iter().map(move |&delta| {
            let smallest = self.estimate.smallest_k(delta);
            let reason = match smallest {
                _ if !self.estimate.outcome().is_usable() => self.estimate.outcome().to_string(),
                Some(k) if k <= k_max => "shortest length that meets the bias tolerance".into(),
                Some(_) => "the tolerance asks for more than the longest allowed".into(),
                None => "no length in the probe window meets the bias tolerance".into(),
            };
            (
                delta,
                smallest,
                smallest.unwrap_or(k_max).min(k_max),
                reason,
            )
        })
    }

    pub fn tables(&self) -> String {
        let (statistics, estimate) = (self.statistics, &self.estimate);
        let windows = match self.scheme {
            Scheme::Strided { losses } => format!("strided windows of {losses} losses"),
            Scheme::Overlapping => "BPTT(2K−1; K)".into(),
            Scheme::Chunked => "chunks of K steps".into(),
        };
        let mut out = format!(
            "direct  W = {} steps, {} losses, {} probes; for {windows}\n\
             noise   of one update is {} times the squared gradient\n\n",
            statistics.window(),
            statistics.losses(),
            statistics.probes(),
            number(estimate.noise_scale()),
        );
        let head = ["δ", "K", "95 % interval", "reason"].map(String::from);
        let rows = self.answers().map(|(delta, _, k, reason)| {
            let (low, high) = estimate.k_interval(delta, Z);
            [
                delta.to_string(),
                k.to_string(),
                format!("{low} to {high}"),
                reason,
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        out += &table(&rows, 2);
        let head = [
            "K",
            "relative bias",
            "error",
            "at most",
            "noise outweighs it for",
            "",
        ];
        let shortest = self.answers().filter_map(|(_, smallest, _, _)| smallest);
        let asked = || {
            self.answers()
                .map(|(delta, smallest, _, _)| (delta, smallest))
        };
        let rows = lengths(statistics.window(), shortest).into_iter().map(|k| {
            let updates = estimate.updates_until_bias_outweighs_noise(k);
            [
                k.to_string(),
                number(estimate.relative_bias(k)),
                number(estimate.standard_error(k)),
                number(estimate.upper_limit(k)),
                match updates.is_finite() {
                    true => format!("{updates:.0} updates"),
                    false => "ever".into(),
                },
                mark(k, asked()),
            ]
        });
        let rows: Vec<_> = std::iter::once(head.map(String::from))
            .chain(rows)
            .collect();
        out + "\n" + &table(&rows, 1)
    }

    pub fn json(&self) -> Value {
        let estimate = &self.estimate;
        let answers = self.answers().map(|(delta, smallest, k, reason)| {
            let (low, high) = estimate.k_interval(delta, Z);
            json!({
                "delta": delta,
                "smallest_k": smallest,
                "k": k,
                "reason": reason,
                "relative_bias": finite(estimate.relative_bias(k)),
                "upper_limit": finite(estimate.upper_limit(k)),
                "interval": [low, high],
            })
        });
        let curve = (0..=self.statistics.window()).map(|k| finite(estimate.relative_bias(k)));
        json!({
            "window": self.statistics.window(),
            "losses": self.statistics.losses(),
            "probes": self.statistics.probes(),
            "scheme": self.scheme,
            "outcome": estimate.outcome().to_string(),
            "noise_scale": finite(estimate.noise_scale()),
            "answers": answers.collect::<Vec<_>>(),
            "relative_bias": curve.collect::<Vec<_>>(),
        })
    }
}
