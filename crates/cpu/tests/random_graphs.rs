//! Random graphs through compiler and CPU device against what they mean.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{decode, encode};
use proptest::{prelude::*, test_runner::TestRunner};
use wgrad_compile::{Options, compile};
use wgrad_cpu::CpuDevice;
use wgrad_ir::reference::{
    Choice, LARGE_EXTENTS, RANDOM_GRAPH_SCALARS, random_graph, random_graph_inputs, run_graph_within,
};
use wgrad_ir::{DType, Graph, Literal, OutputSource};
use wgrad_runtime::{Buffer, Device};

/// Small extents, and in a quarter of the cases one that fills vectors, blocks and tiles, and some more.
fn dims() -> impl Strategy<Value = Vec<usize>> {
    let small = || prop::collection::vec(1usize..5, 1..4);
    let large = (small(), any::<prop::sample::Index>(), prop::sample::select(LARGE_EXTENTS.to_vec()));
    let one_large = large.prop_map(|(mut dims, axis, extent)| {
        let axis = axis.index(dims.len());
        dims[axis] = extent;
        dims
    });
    prop_oneof![3 => small(), 1 => one_large]
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let numbers = [0usize..9, 0usize..9, 0usize..9];
    prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), numbers), 1..24)
}

/// How many outputs and elements were compared, and the sum of the outputs' shares of elements with a tight bound, in thousandths:
/// an output with many elements counts like the others.
#[derive(Default)]
struct Compared {
    outputs: AtomicUsize,
    elements: AtomicUsize,
    tight: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Inputs {
    Kept,
    Donated,
    /// Donated, but the caller still holds them: they must not change.
    Shared,
}

fn check(
    device: &CpuDevice,
    g: &Graph,
    dims: &[usize],
    options: &Options,
    held: Inputs,
    compared: &Compared,
) -> Result<(), TestCaseError> {
    let fail = |e: &dyn std::fmt::Display| TestCaseError::fail(format!("{e}\n{options:?}\n{g}"));
    let program = Arc::new(compile(g, device.caps(), options).map_err(|e| fail(&e))?);
    let executable = device.prepare(program.clone()).map_err(|e| fail(&e))?;
    let inputs = random_graph_inputs(dims);
    // Inputs that the graph does not reach are not the program's.
    let upload = |x: &Vec<f64>| {
        let elements = x.iter().map(|&v| Literal::from_f64(DType::F32, v)).collect();
        device.upload(&encode(&elements, DType::F32), DType::F32)
    };
    let buffers: Vec<Buffer> = inputs
        .iter()
        .take(program.inputs.len())
        .map(upload)
        .collect::<Result<_, _>>()
        .map_err(|e| fail(&e))?;
    let kept = if held == Inputs::Shared { buffers.clone() } else { Vec::new() };
    let scalars: Vec<Literal> = RANDOM_GRAPH_SCALARS
        .iter()
        .zip(&program.scalars)
        .map(|(&value, &dtype)| Literal::from_f64(dtype, value))
        .collect();
    let run = executable.run(buffers, &scalars).map_err(|e| fail(&e))?;
    let read = |buffer: &Buffer| -> Result<Vec<f64>, TestCaseError> {
        let bytes = device.read(buffer, DType::F32).and_then(|r| r.wait()).map_err(|e| fail(&e))?;
        Ok(decode(&bytes, DType::F32).iter().map(|l| l.as_f64()).collect())
    };
    let want = run_graph_within(g, &inputs, &RANDOM_GRAPH_SCALARS);
    for (output, want) in program.outputs.iter().zip(&want) {
        let got = match output.source {
            OutputSource::Result(i) => read(&run.results[i as usize])?,
            OutputSource::Input(i) => match program.updates.binary_search(&i) {
                Ok(n) => read(&run.updated[n])?,
                Err(_) => inputs[i as usize].clone(),
            },
        };
        prop_assert_eq!(got.len(), want.len());
        let mut tight = 0;
        for (i, (got, &(value, error))) in got.iter().zip(want).enumerate() {
            let bound = error + f64::from(f32::MIN_POSITIVE);
            prop_assert!(
                error.is_infinite() || (got - value).abs() <= bound,
                "element {i} is {got}, should be {value} within {bound:e}\n{options:?} {held:?}\n{g}\n{program}"
            );
            tight += usize::from(bound <= 1e-3 * value.abs().max(1.0));
        }
        compared.outputs.fetch_add(1, Ordering::Relaxed);
        compared.elements.fetch_add(got.len(), Ordering::Relaxed);
        compared.tight.fetch_add(1000 * tight / got.len().max(1), Ordering::Relaxed);
    }
    for (buffer, input) in kept.iter().zip(&inputs) {
        prop_assert_eq!(&read(buffer)?, input, "a shared input changed\n{}\n{}", g, program);
    }
    Ok(())
}

#[test]
fn the_cpu_computes_what_random_graphs_say() {
    let device = CpuDevice::new();
    let compared = Compared::default();
    let held = prop_oneof![Just(Inputs::Kept), Just(Inputs::Donated), Just(Inputs::Shared)];
    let cases = (dims(), choices(), prop::collection::vec(any::<usize>(), 0..3), any::<u16>(), held);
    let config = ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&cases, |(dims, choices, wanted, passes, held)| {
        let mut g = random_graph(&dims, &choices, &wanted);
        if held != Inputs::Kept {
            g.set_donated(vec![0, 1]);
        }
        check(&device, &g, &dims, &Options::default(), held, &compared)?;
        check(&device, &g, &dims, &Options::from_bits(passes), held, &compared)
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    // Bounds that allow anything would prove nothing.
    let [outputs, elements, tight] =
        [compared.outputs, compared.elements, compared.tight].map(AtomicUsize::into_inner);
    assert!(tight >= 900 * outputs, "{tight} thousandths of {outputs} outputs have a tight bound");
    println!("{elements} elements of {outputs} outputs, {tight} thousandths within 1e-3");
}
