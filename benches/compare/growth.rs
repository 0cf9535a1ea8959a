//! Time per loss token and peak memory against K, for several batch sizes.
//!
//! Every point is a process of its own, so that its peak memory is its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use atbptt::core::FixedKConfig;
use atbptt::train::{Scheme, device_from_env};
use clap::Args;
use plotters::prelude::*;

use crate::Result;
use crate::cases::{Measured, TrainCase};
use crate::train;

#[derive(Args)]
pub struct Growth {
    /// Truncation lengths.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 30, 100, 300, 1000])]
    k: Vec<usize>,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    batch: Vec<usize>,
    /// Units of the LSTM and features of the embedding.
    #[arg(long, default_value_t = 200)]
    hidden: usize,
    /// Words.
    #[arg(long, default_value_t = 10_000)]
    vocabulary: usize,
    /// Timed windows per point, at least; short windows get more. The median counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Folder for growth.csv and growth.png.
    #[arg(long)]
    out: Option<PathBuf>,
    /// growth.csv of an earlier run: its points are kept, those of this run added or replaced.
    #[arg(long)]
    with: Option<PathBuf>,
    /// Measures one point in this process and prints it as JSON.
    #[arg(long, hide = true)]
    point: bool,
}

/// One point of the table.
struct Point {
    batch: usize,
    k: usize,
    measured: Measured,
}

pub fn run(args: &Growth) -> Result<()> {
    if args.point {
        return point(args);
    }
    println!(
        "hidden {}, vocabulary {}, BPTT(2K−1; K); per loss token",
        args.hidden, args.vocabulary
    );
    println!("| batch | K | µs per loss token | tokens/s | peak memory, MB |");
    println!("|---|---|---|---|---|");
    let mut points = Vec::new();
    for &batch in &args.batch {
        for &k in &args.k {
            let output = Command::new(std::env::current_exe()?)
                .args(["growth", "--point"])
                .args(["--k", &k.to_string(), "--batch", &batch.to_string()])
                .args(["--hidden", &args.hidden.to_string()])
                .args(["--vocabulary", &args.vocabulary.to_string()])
                .args(["--repeat", &args.repeat.to_string()])
                .stderr(Stdio::inherit())
                .output()?;
            if !output.status.success() {
                return Err(format!("batch {batch}, K = {k}: {}", output.status).into());
            }
            let measured: Measured = serde_json::from_slice(&output.stdout)?;
            println!(
                "| {batch} | {k} | {:.1} | {:.0} | {:.0} |",
                1e6 / measured.tokens_per_second,
                measured.tokens_per_second,
                measured.rss_mb
            );
            points.push(Point { batch, k, measured });
        }
    }
    if let Some(earlier) = &args.with {
        for point in read_csv(earlier)? {
            let known = |known: &Point| (known.batch, known.k) == (point.batch, point.k);
            if !points.iter().any(known) {
                points.push(point);
            }
        }
    }
    points.sort_by_key(|point| (point.batch, point.k));
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out)?;
        write_csv(&out.join("growth.csv"), &points)?;
        draw(&out.join("growth.png"), args, &points)?;
        println!("figure: {}", out.join("growth.png").display());
    }
    Ok(())
}

fn point(args: &Growth) -> Result<()> {
    let (Some(&k), Some(&batch)) = (args.k.first(), args.batch.first()) else {
        return Err("a point needs K and a batch size".into());
    };
    let case = TrainCase {
        name: "growth",
        batch,
        hidden: args.hidden,
        vocabulary: args.vocabulary,
        k,
        scheme: Scheme::Overlapping,
    };
    // At least about 2,000 loss tokens, so that short windows are not all noise.
    let repeat = args.repeat.max((2_000 / (k * batch)).min(100));
    let run = train::run(case, FixedKConfig::new(k).init()?, repeat + 2, 1)?;
    let times = run.steps.into_iter().skip(1).collect();
    println!(
        "{}",
        Measured::new(case.name(), case.tokens(), times, &device_from_env()?)?.line()?
    );
    Ok(())
}

fn write_csv(path: &Path, points: &[Point]) -> Result<()> {
    let mut csv = String::from("batch,k,seconds_per_loss_token,peak_rss_mb\n");
    for Point { batch, k, measured } in points {
        let seconds = 1.0 / measured.tokens_per_second;
        csv += &format!("{batch},{k},{seconds:e},{}\n", measured.rss_mb);
    }
    Ok(std::fs::write(path, csv)?)
}

fn read_csv(path: &Path) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for row in csv::Reader::from_path(path)?.deserialize() {
        let (batch, k, seconds, rss_mb): (usize, usize, f64, f64) = row?;
        points.push(Point {
            batch,
            k,
            measured: Measured {
                case: String::new(),
                seconds: seconds * (batch * k) as f64,
                tokens_per_second: 1.0 / seconds,
                rss_mb,
                peer: String::new(),
                device: String::new(),
                device_mb: None,
            },
        });
    }
    Ok(points)
}

/// Time per loss token against K, both logarithmic, one line per batch size.
fn draw(path: &Path, args: &Growth, points: &[Point]) -> Result<()> {
    dejavu_font()?;
    let micros = |point: &Point| 1e6 / point.measured.tokens_per_second;
    let low = points.iter().map(micros).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(micros).fold(0.0, f64::max);
    let ks = || points.iter().map(|point| point.k as f64);
    let (from, to) = (ks().fold(f64::INFINITY, f64::min), ks().fold(1.0, f64::max));
    let area = BitMapBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            format!(
                "Time per loss token, LSTM of {} units, {} words",
                args.hidden, args.vocabulary
            ),
            ("dejavu", 20),
        )
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (from / 1.2..to * 1.2).log_scale(),
            (low / 1.5..high * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("K, steps")
        .y_desc("µs per loss token")
        .x_label_formatter(&|k| format!("{k:.0}"))
        .y_label_formatter(&|micros| format!("{micros:.0}"))
        .label_style(("dejavu", 14))
        .draw()?;
    let mut batches: Vec<usize> = points.iter().map(|point| point.batch).collect();
    batches.dedup();
    for (index, batch) in batches.into_iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let line: Vec<(f64, f64)> = points
            .iter()
            .filter(|point| point.batch == batch)
            .map(|point| (point.k as f64, micros(point)))
            .collect();
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)).point_size(4))?
            .label(format!("batch {batch}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font(("dejavu", 14))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The font of the library's plots: no system font is needed.
fn dejavu_font() -> Result<()> {
    plotters::style::register_font(
        "dejavu",
        plotters::style::FontStyle::Normal,
        dejavu::sans::regular(),
    )
    .map_err(|_| "the built-in font cannot be read".into())
}
