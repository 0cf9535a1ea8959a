//! Moving averages of direct estimates.

use super::*;

/// Â and Ĉ average apart, at the scale of the newest gradient (two probes say no error that would forbid it). All probes have the squared norm 2 here: with Ĉ = 2 and Â = 1 in the one
/// update, Ĉ = 1 and Â = ¼ in the other, δ̂² is (1 + ¼)/(2 + 1), not the mean of ½ and ¼.
#[test]
fn smoothing_averages_numerator_and_denominator_apart() {
    let of = |probes: &[Probe]| {
        statistics(5, 1, &[0, 4], probes)
            .estimate(strided(1))
            .unwrap()
    };
    let root = 2f64.sqrt();
    let clear = |scale: f64| {
        let probe = vec![
            vec![scale * (root - 1.0), 0.0, 0.0, 0.0],
            vec![scale, 0.0, 0.0, 0.0],
        ];
        of(&vec![probe; 2])
    };
    let noisy: Vec<Probe> = (1..3)
        .map(|own| {
            let mut late = vec![0.5, 0.0, 0.0, 0.0];
            late[own] = 1.0;
            vec![late, vec![0.5, 0.0, 0.0, 0.0]]
        })
        .collect();
    let new = of(&noisy);
    assert!(close(new.relative_bias(1), 0.5, 1e-12));
    // However long the older gradient was.
    for scale in [1.0, 1e3, 1e-3] {
        let old = clear(scale);
        let both = new.smoothed(&old, 0.5).unwrap();
        assert!(
            close(both.relative_bias(1), (1.25 / 3.0f64).sqrt(), 1e-12),
            "{scale}"
        );
        assert!(close(both.gradient_square(), 1.5, 1e-12), "{scale}");
        assert!(close(both.noise_scale(), 0.5 / 1.5, 1e-12), "{scale}");
        let back = old.smoothed(&new, 0.25).unwrap();
        let expected = ((0.75 + 0.25 * 0.25) / (1.5f64 + 0.25)).sqrt();
        assert!(close(back.relative_bias(1), expected, 1e-12), "{scale}");
    }
    let old = clear(1.0);
    assert_eq!(new.smoothed(&old, 0.0).unwrap(), new);
    assert!(new.smoothed(&old, 1.0).is_err() && new.smoothed(&old, f64::NAN).is_err());
    let probe: Probe = vec![vec![1.0], vec![1.0]];
    let longer = statistics(6, 1, &[0, 5], &vec![probe; 3])
        .estimate(strided(1))
        .unwrap();
    assert!(matches!(
        new.smoothed(&longer, 0.5),
        Err(EstimateError::UnequalProbes { .. })
    ));
}

/// A bias of 0.2 and one of 0.6, each known to a hundredth, are hardly averaged: the newer one counts. Told by few noisy probes they
/// are. Where the bias stays, the average holds on to what was.
#[test]
fn an_average_gives_way_where_the_bias_has_changed() {
    let mut rng = Pcg64::seed_from_u64(6);
    let mut of = |bias: f64, noise: f64| {
        let probes = noisy(&mut rng, &[1.0 - bias, bias], 8, 40, noise);
        statistics(5, 1, &[0, 4], &probes)
            .estimate(strided(1))
            .unwrap()
    };
    let (old, new) = (of(0.2, 0.02), of(0.6, 0.02));
    let both = new.smoothed(&old, 0.5).unwrap();
    // Half of each would be 0.45.
    assert!((both.relative_bias(1) / new.relative_bias(1) - 1.0).abs() < 0.01);
    let (old, new) = (of(0.2, 0.3), of(0.6, 0.3));
    let both = new.smoothed(&old, 0.5).unwrap();
    assert!(both.relative_bias(1) < 0.97 * new.relative_bias(1));
    let (old, new) = (of(0.6, 0.02), of(0.6, 0.02));
    let both = new.smoothed(&old, 0.5).unwrap();
    assert!(both.standard_error(1) < 0.9 * new.standard_error(1));
}

/// A bias that grows by more than its error from update to update: an average that lags says so by its error.
#[test]
fn an_average_that_lags_behind_has_a_larger_error() {
    let mut rng = Pcg64::seed_from_u64(7);
    let (mut held, mut of_single, mut count) = (0, 0.0, 0);
    for _ in 0..200 {
        let mut average: Option<DirectEstimate> = None;
        for update in 0..6 {
            let bias = 0.2 + 0.05 * f64::from(update);
            let probes = noisy(&mut rng, &[1.0 - bias, bias], 5, 8, 0.2);
            let new = statistics(5, 1, &[0, 4], &probes)
                .estimate(strided(1))
                .unwrap();
            let both = match &average {
                Some(old) => new.smoothed(old, 0.5).unwrap(),
                None => new.clone(),
            };
            if update > 1 {
                let distance = (both.relative_bias(1) - bias).abs();
                held += usize::from(distance <= 2.0 * both.standard_error(1));
                of_single += new.standard_error(1) / bias;
                count += 1;
            }
            average = Some(both);
        }
    }
    let (held, error) = (held as f64 / count as f64, of_single / count as f64);
    println!("held {held:.3}; relative error of one update {error:.3}");
    assert!(held >= 0.93, "{held}");
}

/// Independent errors of two updates: variances add with the squares of their weights.
#[test]
fn smoothing_shrinks_the_error() {
    let mut rng = Pcg64::seed_from_u64(4);
    let mut one = || {
        let probes = noisy(&mut rng, &[8.0, 4.0], 6, 20, 1.0);
        statistics(5, 1, &[0, 4], &probes)
            .estimate(strided(1))
            .unwrap()
    };
    let (a, b) = (one(), one());
    let both = a.smoothed(&b, 0.5).unwrap();
    let larger = a.standard_error(1).max(b.standard_error(1));
    assert!(both.standard_error(1) < 0.85 * larger);
    // At the scale of the newer one.
    let size = |e: &DirectEstimate| e.gradient_square() * (1.0 + e.noise_scale());
    let error = |e: &DirectEstimate| e.gradient_square_error().unwrap() / size(e);
    assert!(close(error(&both), 0.5 * error(&a).hypot(error(&b)), 1e-9));
}
