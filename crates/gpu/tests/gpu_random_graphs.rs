//! Random graphs through compiler and GPU against what they mean.

mod common;

use std::sync::Arc;

use common::{decode, device, encode};
use wgrad_compile::{Options, compile};
use wgrad_gpu::GpuDevice;
use wgrad_ir::reference::{
    RANDOM_GRAPH_SCALARS, random_graph, random_graph_inputs, random_parts, run_graph_within,
};
use wgrad_ir::{DType, Literal, OutputSource, Program, philox};
use wgrad_runtime::{Buffer, Device, DeviceError};

/// How many graphs: they are numbered, so that a driver's disk cache knows their shaders after the first run.
const GRAPHS: u32 = 300;

/// The program's outputs on the device. Where `shared`, the caller holds the inputs too and sees that they stay.
fn run(
    device: &GpuDevice,
    program: Arc<Program>,
    inputs: &[Vec<f64>],
    shared: bool,
) -> Result<Vec<Vec<f64>>, DeviceError> {
    let upload = |x: &Vec<f64>| device.upload(&encode(DType::F32, x), DType::F32);
    let buffers: Vec<Buffer> =
        inputs.iter().take(program.inputs.len()).map(upload).collect::<Result<_, _>>()?;
    let kept = if shared { buffers.clone() } else { Vec::new() };
    let scalars: Vec<Literal> = RANDOM_GRAPH_SCALARS
        .iter()
        .zip(&program.scalars)
        .map(|(&value, &dtype)| Literal::from_f64(dtype, value))
        .collect();
    let run = device.prepare(program.clone())?.run(buffers, &scalars)?;
    let read = |buffer: &Buffer| Ok(decode(DType::F32, &device.read(buffer, DType::F32)?.wait()?));
    for (buffer, input) in kept.iter().zip(inputs) {
        assert_eq!(&read(buffer)?, input, "a shared input changed\n{program}");
    }
    let output = |source| match source {
        OutputSource::Result(i) => read(&run.results[i as usize]),
        OutputSource::Input(i) => match program.updates.binary_search(&i) {
            Ok(n) => read(&run.updated[n]),
            Err(_) => Ok(inputs[i as usize].clone()),
        },
    };
    program.outputs.iter().map(|o| output(o.source)).collect()
}

#[test]
fn the_gpu_computes_what_random_graphs_say() {
    let Some(device) = device() else { return };
    // Shares are those of a graph: one with many elements counts like the others.
    let (mut compared, mut share, mut defects) = (0, 0.0, Vec::new());
    for number in 0..GRAPHS {
        let (dims, choices, wanted) = random_parts(number);
        let mut g = random_graph(&dims, &choices, &wanted);
        if number % 3 != 0 {
            g.set_donated(vec![0, 1]);
        }
        // Half of them as users compile them, the others with some of the passes.
        let passes = philox::word(0, 1, number, [5, 9]) as u16;
        let options = if number.is_multiple_of(2) { Options::default() } else { Options::from_bits(passes) };
        let program =
            compile(&g, device.caps(), &options).unwrap_or_else(|e| panic!("{e}\n{options:?}\n{g}"));
        let program = Arc::new(program);
        let inputs = random_graph_inputs(&dims);
        let got = match run(&device, program.clone(), &inputs, number % 3 == 2) {
            Ok(got) => got,
            Err(e) => {
                defects.push(format!("graph {number}: {e}\n{options:?}\n{g}\n{program}"));
                continue;
            }
        };
        let want = run_graph_within(&g, &inputs, &RANDOM_GRAPH_SCALARS);
        let elements = got.iter().zip(&want).flat_map(|(got, want)| {
            assert_eq!(got.len(), want.len(), "graph {number}");
            got.iter().zip(want)
        });
        let (mut worst, mut all, mut tight) = (None, 0, 0);
        for (got, &(value, error)) in elements {
            let bound = error + f64::from(f32::MIN_POSITIVE);
            let right = error.is_infinite() || (got - value).abs() <= bound;
            if !right {
                worst = Some(format!("{got}, should be {value} within {bound:e}"));
            }
            all += 1;
            tight += u32::from(bound <= 1e-3 * value.abs().max(1.0));
        }
        compared += all;
        share += f64::from(tight) / f64::from(all.max(1)) / f64::from(GRAPHS);
        if let Some(worst) = worst {
            defects.push(format!("graph {number}: {worst}\n{options:?}\n{g}\n{program}"));
        }
    }
    assert!(defects.is_empty(), "{} of {GRAPHS} graphs:\n{}", defects.len(), defects.join("\n"));
    // Bounds that allow anything would prove nothing.
    assert!(share >= 0.9, "only {share:.3} of a graph's elements have a tight bound");
    println!("{GRAPHS} graphs, {compared} elements, {share:.3} of a graph's within 1e-3");
}
