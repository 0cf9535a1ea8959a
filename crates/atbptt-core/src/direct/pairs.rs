//! Means of products between probes, and their variances and covariances.
//!
//! Symbols: h_ij = product of a quantity of probe i with that of probe j, known for pairs of one group of probes.

use super::spread::Spread;

/// The products of one quantity.
pub(super) struct Products {
    /// h_ij for i < j, group by group.
    pairs: Vec<f64>,
    /// Per probe, Σ_j h_ij over the others of its group.
    rows: Vec<f64>,
    /// Per probe, how many others its group has.
    partners: Vec<f64>,
    /// Mean of h_ii.
    pub within: f64,
}

impl Products {
    /// From the products of every group, row by row: h_ij at `i · probes + j`.
    pub fn new(groups: impl Iterator<Item = (usize, Vec<f64>)>) -> Self {
        let (mut pairs, mut rows, mut partners) = (Vec::new(), Vec::new(), Vec::new());
        let mut within = 0.0;
        for (probes, products) in groups {
            let at = |i: usize, j: usize| products.get(i * probes + j).copied().unwrap_or(f64::NAN);
            // Either order was summed on its own.
            let product = |i: usize, j: usize| (at(i, j) + at(j, i)) / 2.0;
            for i in 0..probes {
                within += at(i, i);
                let others = (0..probes).filter(|j| *j != i);
                rows.push(others.map(|j| product(i, j)).sum());
                partners.push(probes.saturating_sub(1) as f64);
                pairs.extend((i + 1..probes).map(|j| product(i, j)));
            }
        }
        let within = within / rows.len() as f64;
        Self {
            pairs,
            rows,
            partners,
            within,
        }
    }

    /// Mean of h_ij over pairs of different probes: unbiased for the product of the means.
    pub fn between(&self) -> f64 {
        self.pairs.iter().sum::<f64>() / self.pairs.len() as f64
    }

    /// Covariance of the two means, or of one with itself its variance. `None` for two probes, which leave none, and where
    /// numbers overflow.
    pub fn spread(&self, other: &Self) -> Option<Spread> {
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        // Over ordered pairs of pairs: a pair with itself, with those that share one probe, with those that share none.
        let count = self.pairs.len() as f64;
        let ends = sum(&self.partners, &self.partners);
        let (sharing, apart) = (ends - 2.0 * count, count * count - ends + count);
        let same = sum(&self.pairs, &other.pairs);
        let rows = sum(&self.rows, &other.rows);
        let total = self.pairs.iter().sum::<f64>() * other.pairs.iter().sum::<f64>();
        let same_mean = same / count;
        let sharing_mean = (rows - 2.0 * same) / sharing;
        let apart_mean = (total - rows + same) / apart;
        // Var U = (ζ Σ_i partners_i² + η pairs) / pairs², which for one group of n is 4 ζ/n + 2 η/(n (n − 1)).
        let spread = match (sharing > 0.0, apart > 0.0) {
            (true, true) => Spread {
                shared: (sharing_mean - apart_mean) * ends / (count * count),
                pairs: (same_mean - 2.0 * sharing_mean + apart_mean) / count,
            },
            // Groups of two: no pair has a neighbour, and 2 ζ + η comes as one.
            (false, true) => Spread {
                shared: 0.0,
                pairs: (same_mean - apart_mean) / count,
            },
            // Three probes: ζ + η is all there is, and (4 ζ + η)/3 at most four thirds of it.
            (true, false) => Spread {
                shared: 0.0,
                pairs: (same_mean - sharing_mean) * 4.0 / 3.0,
            },
            (false, false) => return None,
        };
        spread.is_finite().then_some(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn products(vectors: &[f64]) -> Products {
        let all = vectors
            .iter()
            .flat_map(|a| vectors.iter().map(move |b| a * b));
        Products::new(std::iter::once((vectors.len(), all.collect())))
    }

    /// All 3⁵ draws of five probes from {−1, 0, 3}, each as likely: the mean of the estimated variance is the variance of U,
    /// and the mean of the estimated covariance with the mean of squares' products that covariance.
    #[test]
    fn the_variance_is_right_in_the_mean_over_all_draws() {
        for probes in [4usize, 5] {
            let draws = 3usize.pow(probes as u32);
            let (mut first, mut second, mut both) = ([0.0; 2], 0.0, 0.0);
            let (mut variance, mut covariance) = (0.0, 0.0);
            for draw in 0..draws {
                let values = (0..probes).map(|i| [-1.0, 0.0, 3.0][draw / 3usize.pow(i as u32) % 3]);
                let values: Vec<f64> = values.collect();
                let a = products(&values);
                let b = products(&values.iter().map(|x| x * x).collect::<Vec<_>>());
                first[0] += a.between() / draws as f64;
                first[1] += b.between() / draws as f64;
                second += a.between().powi(2) / draws as f64;
                both += a.between() * b.between() / draws as f64;
                let own = a.spread(&a).unwrap();
                variance += (own.shared + own.pairs) / draws as f64;
                let with = a.spread(&b).unwrap();
                covariance += (with.shared + with.pairs) / draws as f64;
                assert_eq!(with, b.spread(&a).unwrap());
                // U² minus the mean over pairs of pairs without a probe in common.
                if probes == 4 {
                    let [w, x, y, z] = values[..] else { continue };
                    let apart = w * x * y * z;
                    let got = own.shared + own.pairs;
                    assert!((got - (a.between().powi(2) - apart)).abs() < 1e-9);
                }
            }
            let expected = second - first[0] * first[0];
            assert!((variance - expected).abs() < 1e-9, "{variance} {expected}");
            let expected = both - first[0] * first[1];
            assert!(
                (covariance - expected).abs() < 1e-9,
                "{covariance} {expected}"
            );
        }
    }

    /// Groups of two and of three, all 2⁵ draws from {0, 1}.
    #[test]
    fn the_variance_is_right_in_the_mean_for_probes_of_two_workers() {
        for sizes in [&[2usize, 3][..], &[2, 2]] {
            let probes: usize = sizes.iter().sum();
            let draws = 1usize << probes;
            let (mut first, mut second, mut variance) = (0.0, 0.0, 0.0);
            for draw in 0..draws {
                let mut bits = (0..probes).map(|i| f64::from(draw >> i & 1 == 1) * 2.0 - 0.5);
                let groups = sizes.iter().map(|size| {
                    let group: Vec<f64> = bits.by_ref().take(*size).collect();
                    let all = group.iter().flat_map(|a| group.iter().map(move |b| a * b));
                    (*size, all.collect())
                });
                let all = Products::new(groups);
                first += all.between() / draws as f64;
                second += all.between().powi(2) / draws as f64;
                let own = all.spread(&all).unwrap();
                variance += (own.shared + own.pairs) / draws as f64;
            }
            let expected = second - first * first;
            assert!(
                (variance - expected).abs() < 1e-9,
                "{sizes:?}: {variance} {expected}"
            );
        }
    }

    #[test]
    fn two_probes_leave_no_variance_and_three_the_leave_one_out_one() {
        let two = products(&[1.0, 2.0]);
        assert_eq!(two.spread(&two), None);
        // h = 2, 3, 6: without a probe 6, 3, 2, mean 11/3, so 2/3 · Σ (…)² = 2/3 · 26/3.
        let three = products(&[1.0, 2.0, 3.0]);
        let variance = three.spread(&three).unwrap();
        assert!((variance.error().powi(2) - 52.0 / 9.0).abs() < 1e-12);
        // Overflow is no variance.
        let huge = products(&[1e80, -1e80, 1e80, 1e79]);
        assert_eq!(huge.spread(&huge), None);
    }
}
