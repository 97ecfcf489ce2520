//! Kernels as models use them, on the device that `WGRAD_BENCH_DEVICE` names (`cpu` by default).
//!
//! `cargo bench -p wgrad-benches` prints time and throughput of each; a step is one evaluation, compiled beforehand.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wgrad::prelude::*;

/// Evaluates `f(x)` anew each time, on inputs of the given shape.
fn bench(c: &mut Criterion, name: &str, shape: &[usize], work: Throughput, f: impl Fn(&Tensor) -> Tensor) {
    let wanted = std::env::var("WGRAD_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = wgrad::devices().open(&wanted).expect("a device to measure").device;
    let elements: usize = shape.iter().product();
    let values: Vec<f32> = (0..elements).map(|i| ((i * 37 % 101) as f32) * 0.02 - 1.0).collect();
    let x = Tensor::from_vec(values, shape, &device);
    let mut group = c.benchmark_group(name);
    group.throughput(work).sample_size(20).measurement_time(Duration::from_secs(2));
    group.bench_function(format!("{shape:?} on {}", device.info().id), |b| {
        b.iter(|| {
            let y = f(&x);
            eval(&[&y]).expect("the benchmark's expression is valid");
            device.synchronize().expect("the device is there");
            black_box(y)
        })
    });
}

fn kernels(c: &mut Criterion) {
    let bytes = |n: usize| Throughput::Bytes(4 * n as u64);
    bench(c, "map/add", &[1 << 20], bytes(3 << 20), |x| x + x.exp());
    bench(c, "map/gelu", &[1024, 512], bytes(2 * 1024 * 512), Tensor::gelu);
    bench(c, "rows/softmax", &[4096, 128], bytes(2 * 4096 * 128), |x| x.softmax(-1));
    bench(c, "reduce/rows", &[4096, 256], bytes(4096 * 256), |x| x.sum(&[1], false));
    bench(c, "reduce/columns", &[4096, 256], bytes(4096 * 256), |x| x.sum(&[0], false));
    bench(c, "reduce/all", &[1 << 20], bytes(1 << 20), Tensor::sum_all);
    for n in [256usize, 512, 1024] {
        bench(c, "matmul", &[n, n], Throughput::Elements(2 * (n * n * n) as u64), |x| x.matmul(&x.t()));
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
