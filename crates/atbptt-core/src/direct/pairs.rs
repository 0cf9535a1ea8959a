//! Means of products between probes, and their variances and covariances.
//!
//! Symbols: h_ij = product of a quantity of probe i with that of probe j, known for pairs of one group of probes; N = windows that
//! probes were drawn from without putting any back, f = n/(N + 1).

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
    /// N; `None` for independent probes.
    population: Option<f64>,
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
            population: None,
        }
    }

    /// The same of probes that are different windows out of so many.
    pub fn out_of(self, population: Option<usize>) -> Self {
        Self {
            population: population.map(|windows| windows as f64),
            ..self
        }
    }

    /// Mean of h_ij over pairs of different probes: unbiased for the product of the means where probes are independent.
    pub fn between(&self) -> f64 {
        self.pairs.iter().sum::<f64>() / self.pairs.len() as f64
    }

    /// The product of the means, without bias: the mean over pairs of independent probes. Of windows that are all different, pairs are of
    /// different windows more often than chance has it, and the product of a window with itself is due its N-th part.
    pub fn square(&self) -> f64 {
        match self.population {
            Some(windows) => ((windows - 1.0) * self.between() + self.within) / windows,
            None => self.between(),
        }
    }

    /// Variance of one probe's quantity: without bias for independent probes, and over all windows where they are different ones.
    pub fn variance(&self) -> f64 {
        (self.within - self.square()).max(0.0)
    }

    /// 1 − f, the share of the windows that no probe has read; 1 for independent probes. One window more than there are counts as unread:
    /// even all that begin m steps apart are not those that begin in between.
    fn unread(&self) -> f64 {
        match self.population {
            Some(windows) => (1.0 - self.rows.len() as f64 / (windows + 1.0)).max(0.0),
            None => 1.0,
        }
    }

    /// Covariance of the two estimates, or of one with itself its variance. `None` for two probes, which leave none, and where
    /// numbers overflow. The covariance matrix of a mean of different windows is 1 − f times that of independent ones; ζ counts it once, η
    /// twice.
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
        let unread = self.unread();
        let spread = Spread {
            shared: unread * spread.shared,
            pairs: unread * unread * spread.pairs,
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

    /// All ways to draw n of seven different vectors: the mean estimate is the square of their mean, exactly; the estimated variance is
    /// that of the estimates within a third in the mean, but for the one window more that counts as unread.
    #[test]
    fn different_windows_out_of_a_few_are_estimated_without_bias() {
        let windows: [[f64; 2]; 7] = [
            [1.0, 0.5],
            [-1.0, 2.0],
            [3.0, 0.0],
            [0.5, -1.5],
            [2.0, 1.0],
            [0.0, 1.0],
            [1.5, -0.5],
        ];
        let mean = [0, 1].map(|i| windows.iter().map(|w| w[i]).sum::<f64>() / 7.0);
        let truth = mean[0] * mean[0] + mean[1] * mean[1];
        for drawn in [4usize, 5, 6, 7] {
            let (mut values, mut variances) = (Vec::new(), Vec::new());
            for set in (0u32..1 << 7).filter(|set| set.count_ones() as usize == drawn) {
                let some: Vec<[f64; 2]> = (0..7)
                    .filter(|i| set >> i & 1 == 1)
                    .map(|i| windows[i])
                    .collect();
                let product = |a: &[f64; 2], b: &[f64; 2]| a[0] * b[0] + a[1] * b[1];
                let all = some
                    .iter()
                    .flat_map(|a| some.iter().map(move |b| product(a, b)));
                let products = Products::new(std::iter::once((drawn, all.collect())));
                let products = products.out_of(Some(7));
                values.push(products.square());
                let spread = products.spread(&products).unwrap();
                variances.push(spread.shared + spread.pairs);
            }
            let count = values.len() as f64;
            let average = values.iter().sum::<f64>() / count;
            assert!(
                (average - truth).abs() < 1e-12,
                "{drawn}: {average} {truth}"
            );
            let variance = values.iter().map(|v| (v - truth).powi(2)).sum::<f64>() / count;
            let estimated = variances.iter().sum::<f64>() / count;
            let unread = |windows: f64| 1.0 - drawn as f64 / windows;
            let more = unread(8.0) / unread(7.0);
            match drawn {
                7 => assert!(variance < 1e-24 && estimated > 0.0 && estimated < truth / 8.0),
                _ => assert!(
                    (estimated / variance) > 0.67 * more
                        && estimated / variance < 1.33 * more * more,
                    "{drawn}: {estimated} {variance}"
                ),
            }
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
