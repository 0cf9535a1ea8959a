//! The estimator and the policies, from arbitrary floats and settings: what is accepted gives answers that are never NaN
//! and stay in their bounds; what is saved goes on exactly.

use arbitrary::{Result, Unstructured};
use atbptt_core::convergence::{
    bound_growth, gradient_norm_bound, max_step_size, slowdown, slowdown_without_noise,
};
use atbptt_core::policy::*;
use atbptt_core::{
    Averaging, BiasEstimate, BiasEstimator, DecayFit, DirectStatistics, EstimateError,
    GradientSize, LagNorms, Scheme, Tau, k_interval, tail_bound,
};

use super::check_message;

/// Bytes: choices and floats, taken as they are needed.
pub fn estimator(data: &[u8]) {
    // Running out of bytes is the only way to fail.
    let _ = estimate_and_control(&mut Unstructured::new(data));
}

fn estimate_and_control(u: &mut Unstructured) -> Result<()> {
    free_functions(u)?;
    let settings = settings(u)?;
    let mut probes = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let probe = norms(u)?;
        if let Ok(norms) = &probe {
            check_with(norms, settings);
            interval(norms, settings, u)?;
        }
        probes.push(probe);
    }
    let usable: Vec<&LagNorms> = probes.iter().filter_map(|p| p.as_ref().ok()).collect();
    if let Ok(pooled) = LagNorms::pool(&usable) {
        assert_eq!(
            pooled.sequences(),
            usable.iter().map(|p| p.sequences()).sum::<usize>()
        );
        check_with(&pooled, settings);
    }
    policies(u, settings, &probes)
}

/// A number: of any bits, at an edge, or of a size that occurs.
fn float(u: &mut Unstructured) -> Result<f64> {
    const EDGES: [f64; 16] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        2.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        f64::EPSILON,
        1e-30,
        1e300,
    ];
    Ok(match u.int_in_range(0..=3)? {
        0 => f64::from_bits(u.arbitrary()?),
        1 => EDGES[u.choose_index(EDGES.len())?],
        2 => f64::from(u.arbitrary::<i16>()?).exp2(),
        _ => f64::from(u.arbitrary::<u16>()?) / 65_536.0,
    })
}

/// A length: short, or beyond all bounds. (Policies that draw step by step take their time for long ones.)
fn length(u: &mut Unstructured) -> Result<usize> {
    Ok(match u.int_in_range(0..=15)? {
        0 => usize::MAX - usize::from(u.arbitrary::<u8>()?),
        1 => usize::MAX >> u.int_in_range(0..=38)?,
        2 => usize::from(u.arbitrary::<u16>()?),
        _ => usize::from(u.arbitrary::<u8>()?),
    })
}

fn norms(u: &mut Unstructured) -> Result<std::result::Result<LagNorms, EstimateError>> {
    let (lags, sequences) = (u.int_in_range(0..=24)?, u.int_in_range(0..=3)?);
    let decaying: bool = u.arbitrary()?;
    let (scale, beta) = (float(u)?, float(u)?);
    let mut rows = Vec::new();
    for lag in 0..lags {
        let mut row = Vec::new();
        for _ in 0..sequences {
            row.push(match decaying {
                true => scale * beta.powi(lag) * (1.0 + f64::from(u.arbitrary::<u8>()?) / 256.0),
                false => float(u)?,
            });
        }
        rows.push(row);
    }
    let flat = rows.concat();
    let sound = !flat.is_empty() && flat.iter().all(|x| x.is_finite() && *x >= 0.0);
    let norms = LagNorms::new(rows);
    assert_eq!(norms.is_ok(), sound, "{norms:?}");
    let Ok(mut norms) = norms else {
        return Ok(norms);
    };
    if u.arbitrary()? {
        // As parts, the norms can only grow; their sum of squares may leave the range.
        let twice: Vec<f64> = flat
            .chunks(sequences)
            .flat_map(|row| [row, row].concat())
            .collect();
        if let Ok(both) = LagNorms::from_parts(norms.lags(), 2, sequences, &twice) {
            assert_eq!(both.part(1).as_ref().map(LagNorms::lags), Ok(norms.lags()));
            assert!(both.part(2).is_err());
            norms = both;
        }
    }
    if u.arbitrary()? {
        let sizes = (0..=norms.lags()).map(|j| if j == 0 { Ok(0.0) } else { float(u) });
        let sizes: Vec<f64> = sizes.collect::<Result<_>>()?;
        if let Ok(with_sizes) = norms.clone().with_mean_sum_norms(sizes) {
            norms = with_sizes;
        }
        let squares = (0..=norms.lags()).map(|_| float(u));
        let squares: Vec<f64> = squares.collect::<Result<_>>()?;
        if let Ok(with_squares) = norms.clone().with_sum_squares(squares) {
            norms = with_squares;
        }
    }
    let json = serde_json::to_string(&norms).expect("finite");
    assert_eq!(
        serde_json::from_str::<LagNorms>(&json).expect("its own"),
        norms
    );
    Ok(Ok(norms))
}

fn settings(u: &mut Unstructured) -> Result<BiasEstimator> {
    let tau = match u.int_in_range(0..=2)? {
        0 => Tau::Fraction(float(u)?),
        1 => Tau::Lag(length(u)?),
        _ => Tau::Lepski,
    };
    let fit = match u.int_in_range(0..=3)? {
        0 => DecayFit::LeastSquaresOfAllLags,
        1 => DecayFit::LeastSquares,
        2 => DecayFit::Max,
        _ => DecayFit::Quantile(float(u)?),
    };
    let averaging = match u.arbitrary()? {
        true => Averaging::MeanThenLog,
        false => Averaging::LogThenMean,
    };
    const SIZES: [GradientSize; 6] = [
        GradientSize::SumOfNorms,
        GradientSize::SumOfStateNorms,
        GradientSize::NormOfMeanSum,
        GradientSize::NormOfMeanStateSum,
        GradientSize::DebiasedNormOfMeanSum,
        GradientSize::DebiasedNormOfMeanStateSum,
    ];
    Ok(BiasEstimator {
        tau,
        tail_from_tau: u.arbitrary()?,
        fit,
        fit_lag_zero: u.arbitrary()?,
        averaging,
        gradient_size: SIZES[u.choose_index(SIZES.len())?],
    })
}

/// Estimates with the usual settings, and with the onset that came with the norms.
pub fn check_norms(norms: &LagNorms, tau: Option<usize>) {
    for averaging in [Averaging::MeanThenLog, Averaging::LogThenMean] {
        for fit in [DecayFit::default(), DecayFit::Max, DecayFit::Quantile(0.9)] {
            for base in [BiasEstimator::new(), BiasEstimator::paper()] {
                let settings = base.with_averaging(averaging).with_fit(fit);
                check_with(norms, settings);
                if let Some(tau) = tau {
                    check_with(norms, settings.with_tau(Tau::Lag(tau)));
                }
            }
        }
    }
}

fn check_with(norms: &LagNorms, settings: BiasEstimator) {
    match norms.phi(settings.averaging) {
        Ok(phi) => {
            assert_eq!(phi.len(), norms.lags());
            assert!(phi.iter().all(|x| *x >= 0.0));
        }
        Err(error) => return check_message(&error),
    }
    match settings.estimate(norms) {
        Ok(estimate) => check_estimate(&estimate),
        Err(error) => check_message(&error),
    }
}

fn check_estimate(estimate: &BiasEstimate) {
    let window = estimate.window();
    assert!(estimate.tau() < window && estimate.log_beta().is_finite());
    for k in [0, 1, window, window + 1, window + 2, usize::MAX] {
        assert!(!estimate.log_absolute_bias(k).is_nan() && estimate.absolute_bias(k) >= 0.0);
        assert!(!estimate.log_relative_bias(k).is_nan() && estimate.relative_bias(k) >= 0.0);
    }
    let curve: Vec<f64> = (0..=window + 1)
        .map(|k| estimate.log_absolute_bias(k))
        .collect();
    let vanishes = !estimate.is_bounded() || estimate.log_beta() >= 0.0;
    for (k, pair) in curve.windows(2).enumerate() {
        // A vanished tail reports the threshold from its onset on.
        let exempt = vanishes && (k + 1 == estimate.tau() || k == window);
        assert!(
            pair[1] <= pair[0] || exempt,
            "E({k}) = {} grows to {}",
            pair[0],
            pair[1]
        );
    }
    assert_eq!(estimate.relative_bias_curve().len(), curve.len());
    for delta in [
        0.0,
        1e-9,
        0.1,
        0.5,
        0.9,
        1.0,
        f64::MAX,
        f64::INFINITY,
        f64::NAN,
        -1.0,
    ] {
        let Some(k) = estimate.smallest_k(delta) else {
            assert!(estimate.crossing(delta).is_none());
            continue;
        };
        assert!((1..=window + 1).contains(&k));
        assert!(estimate.log_relative_bias(k) <= delta.ln());
        assert!(k == 1 || estimate.log_relative_bias(k - 1) > delta.ln());
        let crossing = estimate.crossing(delta).expect("there is a K");
        assert!(
            crossing >= 1.0 && crossing.ceil() == k as f64,
            "{crossing} for {k}"
        );
    }
    let json = serde_json::to_string(estimate).expect("finite");
    assert_eq!(
        &serde_json::from_str::<BiasEstimate>(&json).expect("its own"),
        estimate
    );
}

fn interval(norms: &LagNorms, settings: BiasEstimator, u: &mut Unstructured) -> Result<()> {
    let (delta, level, cap) = (float(u)?, float(u)?, length(u)?);
    match k_interval(&settings, norms, delta, level, cap) {
        Ok(found) => {
            assert!(found.level > 0.0 && found.level < 1.0);
            assert!(1.0 <= found.low && found.low <= found.estimate, "{found:?}");
            assert!(
                found.estimate <= found.high && found.high <= cap as f64,
                "{found:?}"
            );
            assert!(found.saturated <= found.draws);
        }
        Err(error) => check_message(&error),
    }
    Ok(())
}

fn free_functions(u: &mut Unstructured) -> Result<()> {
    let (a, b, c, d) = (float(u)?, float(u)?, float(u)?, float(u)?);
    assert!(slowdown(a).is_ok_and(|x| x >= 1.0) == (0.0..1.0).contains(&a));
    assert!(!bound_growth(a).is_ok_and(f64::is_nan));
    assert!(slowdown_without_noise(a).is_ok_and(|x| x >= 1.0) == (0.0..1.0).contains(&a));
    assert!(!max_step_size(a, b).is_ok_and(f64::is_nan));
    let steps: Vec<f64> = (0..u.int_in_range(0..=3)?)
        .map(|_| float(u))
        .collect::<Result<_>>()?;
    if let Ok(bound) = gradient_norm_bound(a, b, c, d, &steps) {
        assert!(bound >= 0.0, "{bound}");
    }
    let (tau, k) = (length(u)?, length(u)?);
    assert!(tail_bound(a, b, tau, k) >= 0.0, "{a} {b} {tau} {k}");
    let logs: Vec<f64> = (0..u.int_in_range(0..=6)?)
        .map(|_| float(u))
        .collect::<Result<_>>()?;
    let fits = [
        DecayFit::LeastSquaresOfAllLags,
        DecayFit::LeastSquares,
        DecayFit::Max,
        DecayFit::Quantile(c),
    ];
    for fit in fits {
        if let Ok(slope) = fit.log_beta(&logs, tau) {
            assert!(
                slope.is_finite(),
                "{fit:?} of {logs:?} from {tau} is {slope}"
            );
        }
    }
    Ok(())
}

fn policies(
    u: &mut Unstructured,
    estimator: BiasEstimator,
    probes: &[std::result::Result<LagNorms, EstimateError>],
) -> Result<()> {
    let regular = match u.arbitrary()? {
        true => Schedule::every_epochs(length(u)?),
        false => Schedule::every_updates(u.arbitrary()?),
    };
    let schedule = regular
        .with_first(u.arbitrary()?)
        .with_at_start(u.arbitrary()?);
    let estimator = match u.int_in_range(0..=2)? {
        0 => Estimator::Paper(estimator),
        1 => Estimator::Norms(estimator),
        _ => Estimator::Direct,
    };
    let monitor = MonitorConfig::default()
        .with_estimator(estimator)
        .with_probes(length(u)?)
        .with_smoothing(float(u)?)
        .with_schedule(schedule);
    let scheme = match u.int_in_range(0..=2)? {
        0 => Scheme::Overlapping,
        1 => Scheme::Chunked,
        _ => Scheme::Strided { losses: length(u)? },
    };
    // Policies take what comes, asked for or not.
    let measured = match u.arbitrary()? {
        true => Measurement::Norms {
            probes: probes.to_vec(),
            scheme,
        },
        false => Measurement::Direct {
            statistics: statistics(u)?,
            scheme,
            updates_per_epoch: float(u)?,
        },
    };
    let (a, b, c) = (length(u)?, length(u)?, length(u)?);
    let (share, spread) = (float(u)?, float(u)?);
    let adaptive = AdaptiveKConfig::new(share)
        .with_k0(a)
        .with_k_min(b)
        .with_k_max(c)
        .with_hysteresis(float(u)?)
        .with_monitor(monitor);
    check_policy(&adaptive.into(), &measured);
    let fixed = FixedKConfig::new(a).with_monitor(Some(monitor));
    check_policy(&fixed.into(), &measured);
    let mut random = RandomLengthConfig::new(a)
        .with_monitor(Some(monitor))
        .with_seed(u.arbitrary()?)
        .with_spread(spread);
    if u.arbitrary()? {
        (random.whole, random.shortest, random.longest) = (share, b, c);
    }
    check_policy(&random.into(), &measured);
    let alpha = match u.arbitrary()? {
        true => None,
        false => Some(spread),
    };
    let artbp = ArtbpConfig::new(a)
        .with_alpha(alpha)
        .with_longest(b)
        .with_monitor(Some(monitor))
        .with_seed(u.arbitrary()?);
    if artbp.init().is_ok() {
        for i in [1, 2, c.max(1), usize::MAX] {
            let cut = artbp.cut_probability(i);
            assert!(cut > 0.0 && cut <= 1.0, "c_{i} = {cut}");
        }
    }
    check_policy(&artbp.into(), &measured);
    Ok(())
}

/// Inner products of a few vectors, or numbers that may be none.
fn statistics(
    u: &mut Unstructured,
) -> Result<std::result::Result<DirectStatistics, EstimateError>> {
    let (window, losses) = (u.int_in_range(0..=20)?, u.int_in_range(0..=4)?);
    let (probes, mut contexts) = (u.int_in_range(0..=4)?, Vec::new());
    for _ in 0..u.int_in_range(0..=4)? {
        let last = contexts.last().copied();
        contexts.push(match u.int_in_range(0..=4)? {
            0 => u.int_in_range(0..=20)?,
            step => last.map_or(0, |last: usize| last + step),
        });
    }
    // One more where the last cut lies before the window's end.
    let pieces = contexts.len() + usize::from(u.arbitrary::<bool>()?);
    let sizes: Vec<f64> = (0..probes * pieces)
        .map(|_| float(u))
        .collect::<Result<_>>()?;
    let gram = sizes.iter().flat_map(|a| sizes.iter().map(move |b| a * b));
    let gram = gram.collect();
    Ok(DirectStatistics::new(
        window, losses, contexts, probes, gram,
    ))
}

/// Draws, updates, saves and restores: every K in its bounds, and the restored policy goes on as the first one does.
fn check_policy(config: &PolicyConfig, measured: &Measurement) {
    let mut policy = match config.init() {
        Ok(policy) => policy,
        Err(error) => return check_message(&error),
    };
    let json = serde_json::to_string(config).expect("accepted, so finite");
    let read: PolicyConfig = serde_json::from_str(&json).expect("its own");
    assert_eq!(&read, config);
    for update in 0..3 {
        let at = Position {
            epoch: usize::MAX,
            update: u64::MAX - 2 + update,
        };
        let _ = policy.monitor().probes_due(at);
        let decision = policy.update(at, measured.clone());
        assert!((1..=policy.k_max()).contains(&decision.k), "{decision:?}");
        if let Measurement::Norms { probes, .. } = measured {
            assert!(decision.unusable <= probes.len() && decision.saturated <= probes.len());
        }
        let numbers = [
            decision.relative_bias,
            decision.standard_error,
            decision.upper_limit,
            decision.noisy_updates,
            decision.effective_tolerance,
        ];
        assert!(
            numbers.iter().flatten().all(|x| *x >= 0.0 && x.is_finite()),
            "{numbers:?}"
        );
        assert!(decision.log_beta.is_none_or(f64::is_finite));
        check_message(&decision);
        draw(policy.as_mut());
    }
    assert_eq!(policy.monitor().history().len(), 3);
    let json = serde_json::to_string(&policy.save()).expect("finite");
    let state: PolicyState = serde_json::from_str(&json).expect("its own");
    assert_eq!(state, policy.save());
    let mut restored = config.init().expect("as before");
    restored.restore(state).expect("its own state");
    assert_eq!(restored.save(), policy.save());
    assert_eq!(draw(restored.as_mut()), draw(policy.as_mut()));
}

fn draw(policy: &mut dyn TruncationPolicy) -> NextWindow {
    let window = policy.next_window();
    let bounds = 1..=policy.k_max();
    assert!(bounds.contains(&window.k) && bounds.contains(&window.typical_k));
    assert_eq!(window.typical_k, policy.k());
    assert!(window.step_scale > 0.0 && window.step_scale.is_finite());
    let factors = &window.compensation;
    assert!(factors.len() < window.k && factors.iter().all(|f| *f >= 1.0 && f.is_finite()));
    window
}
