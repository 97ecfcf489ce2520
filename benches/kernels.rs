//! Fused kernels against the kernels of their definitions, on the CPU or on the device that `WGRAD_BENCH_DEVICE` names.
//!
//! `cargo bench -p wgrad-benches` prints time and throughput of each; `cargo bench -p wgrad-benches -- softmax` those of one.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use wgrad_benches::{Error, Prepared, Work, cases};

fn main() -> Result<(), Error> {
    let wanted = std::env::var("WGRAD_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = wgrad::devices().open(&wanted)?.device;
    let mut criterion = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for case in cases()? {
        let mut group = criterion.benchmark_group(&case.name);
        group.throughput(match case.work {
            Work::Bytes(bytes) => Throughput::Bytes(bytes),
            Work::Flops(flops) => Throughput::Elements(flops),
        });
        for (name, options) in &case.variants {
            let mut prepared = Prepared::new(&case, options, &device)?;
            let mut outcome = prepared.run();
            let title = format!("{name}, {} kernels, {}", prepared.kernels(), device.info().id);
            group.bench_function(title, |b| {
                b.iter(|| {
                    if outcome.is_ok() {
                        outcome = prepared.run();
                    }
                });
            });
            outcome?;
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}
