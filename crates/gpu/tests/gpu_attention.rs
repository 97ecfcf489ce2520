//! Attention and its gradient against their definition, in both families of shaders.

mod common;

use std::{sync::Arc, time::Instant};

use common::{decode, device, encode, noise, numbers, outputs, spec, whole};
use wgrad_gpu::{GpuBackend, GpuDevice};
use wgrad_ir::reference::{Rounding, run_program};
use wgrad_ir::{
    Arg, AttentionDims, AttentionGradKernel, AttentionKernel, AttentionSpec, BufferRef, DType, Kernel,
    Literal, Op, Operand, OutputSource, OutputSpec, Program, Shape, Step, View, philox, verify_program,
};
use wgrad_kernels::{AttentionVariant, Choices};
use wgrad_runtime::Device;

/// How operands lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    /// Each alone, row-major.
    Plain,
    /// `[batch, heads, time, width]` each.
    HeadsFirst,
    /// Interleaved parts of one buffer, `[batch, time, heads + 2 kv_heads, width]`; needs as many keys as queries.
    Packed,
}

/// Attention, then its gradient, as one program. Inputs: q, k, v (or one packed buffer), the cotangent, the mask if there is one.
/// Outputs: out, lse, and the gradients, laid out as the operands.
fn program(dims: &AttentionDims, layout: Layout) -> Program {
    let d = dims;
    let mut p = Program::default();
    let words = |shape: [usize; 4]| shape.iter().product::<usize>();
    let by_query = [d.batch, d.queries, d.heads, d.width];
    let by_key = [d.batch, d.keys, d.kv_heads, d.width];
    let view = |shape: [usize; 4]| match layout {
        Layout::HeadsFirst => {
            let [b, t, h, w] = shape;
            View::contiguous([b, h, t, w].into())
                .apply(&Op::Permute([0, 2, 1, 3].into_iter().collect()))
                .unwrap()
        }
        _ => View::contiguous(shape.into()),
    };
    let all_heads = d.heads + 2 * d.kv_heads;
    let packed = [d.batch, d.queries, all_heads, d.width];
    let part = |from: usize, heads: usize| {
        let ranges = [(0, d.batch, 1), (0, d.queries, 1), (from, heads, 1), (0, d.width, 1)];
        View::contiguous(packed.into()).apply(&Op::Slice { ranges: ranges.into_iter().collect() }).unwrap()
    };
    let views = if layout == Layout::Packed {
        [part(0, d.heads), part(d.heads, d.kv_heads), part(d.heads + d.kv_heads, d.kv_heads)]
    } else {
        [view(by_query), view(by_key), view(by_key)]
    };
    let mut input = |dtype, len: usize| {
        p.inputs.push(spec(dtype, len));
        whole(BufferRef::Input(p.inputs.len() as u32 - 1), 4 * len as u64)
    };
    let operands: Vec<Arg> = match layout {
        Layout::Packed => vec![input(DType::F32, words(packed))],
        _ => [by_query, by_key, by_key].map(|shape| input(DType::F32, words(shape))).to_vec(),
    };
    let grad_out = input(DType::F32, words(by_query));
    let mask = d.spec.masked.then(|| input(DType::Bool, d.batch * d.keys));
    let mut result = |len: usize| {
        let shape = Shape::from([len]);
        let n = p.results.len() as u32;
        p.outputs.push(OutputSpec { source: OutputSource::Result(n), shape, dtype: DType::F32 });
        p.results.push(spec(DType::F32, len));
        whole(BufferRef::Output(n), 4 * len as u64)
    };
    let out = result(words(by_query));
    let lse = result(d.batch * d.heads * d.queries);
    let grads: Vec<Arg> = match layout {
        Layout::Packed => vec![result(words(packed))],
        _ => [by_query, by_key, by_key].map(|shape| result(words(shape))).to_vec(),
    };
    p.temps.push(lse.bytes);
    let delta = whole(BufferRef::Temp(0), lse.bytes);

    let mut args = Vec::new();
    let mut add = |arg: Arg| {
        args.push(arg);
        args.len() as u32 - 1
    };
    let firsts: Vec<u32> = operands.iter().map(|&a| add(a)).collect();
    let operand =
        |n: usize, firsts: &[u32]| Operand { arg: firsts[n % firsts.len()], view: views[n].clone() };
    let [q, k, v] = [0, 1, 2].map(|n| operand(n, &firsts));
    let mask = mask.map(&mut add);
    let out = Operand { arg: add(out), view: view(by_query) };
    let lse = add(lse);
    let forward = AttentionKernel {
        dims: d.clone(),
        q: q.clone(),
        k: k.clone(),
        v: v.clone(),
        mask,
        out: out.clone(),
        lse,
    };
    let forward_args = args.clone();
    let mut add = |arg: Arg| {
        args.push(arg);
        args.len() as u32 - 1
    };
    let grad_out = Operand { arg: add(grad_out), view: view(by_query) };
    let firsts: Vec<u32> = grads.iter().map(|&a| add(a)).collect();
    let [grad_q, grad_k, grad_v] = [0, 1, 2].map(|n| operand(n, &firsts));
    let delta = add(delta);
    let backward = AttentionGradKernel {
        dims: d.clone(),
        q,
        k,
        v,
        mask,
        out,
        lse,
        grad_out,
        grad_q,
        grad_k,
        grad_v,
        delta,
    };
    p.steps = vec![
        Step { kernel: Arc::new(Kernel::Attention(forward)), args: forward_args, label: "attention".into() },
        Step { kernel: Arc::new(Kernel::AttentionGrad(backward)), args, label: "attention_grad".into() },
    ];
    p
}

fn dims(
    [batch, heads, kv_heads]: [usize; 3],
    [queries, keys, width]: [usize; 3],
    causal: bool,
    window: Option<usize>,
    masked: bool,
) -> AttentionDims {
    let scale = Literal::from_f64(DType::F32, 1.0 / (width as f64).sqrt());
    let spec = AttentionSpec { causal, window, masked, scale };
    AttentionDims { batch, heads, kv_heads, queries, keys, width, spec }
}

/// Random elements of each input; of the mask, about a quarter is absent.
fn inputs(program: &Program) -> Vec<Vec<f64>> {
    let one = |(n, s): (usize, &wgrad_ir::BufferSpec)| match s.dtype {
        DType::Bool => numbers(s.shape.elements(), 4, 77).iter().map(|&v| f64::from(v > 0.0)).collect(),
        _ => noise(s.shape.elements(), 10 + n as u32).iter().map(|v| 2.0 * v).collect(),
    };
    program.inputs.iter().enumerate().map(one).collect()
}

fn run(device: &GpuDevice, program: &Program, inputs: &[Vec<f64>], choices: &Choices) -> Vec<Vec<f64>> {
    for step in &program.steps {
        for dispatch in wgrad_kernels::generate(&step.kernel, device.caps(), choices).expect("WGSL") {
            wgrad_kernels::check(&dispatch.source).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    let executable = device.prepare_with(Arc::new(program.clone()), choices).unwrap();
    let uploads = inputs.iter().zip(&program.inputs);
    let uploads = uploads.map(|(data, s)| device.upload(&encode(s.dtype, data), s.dtype).unwrap()).collect();
    outputs(device, program, &executable.run(uploads, &[]).unwrap()).unwrap()
}

fn compare(device: &GpuDevice, dims: &AttentionDims, layout: Layout, variants: &[Option<AttentionVariant>]) {
    let program = program(dims, layout);
    verify_program(&program).unwrap();
    let mut inputs = inputs(&program);
    if dims.spec.masked && dims.batch > 1 {
        // One sequence is not there at all.
        let mask = inputs.last_mut().unwrap();
        mask[..dims.keys].fill(0.0);
    }
    let want = run_program(&program, &inputs, &[], Rounding::None);
    for &attention in variants {
        let choices = Choices { attention, ..Choices::default() };
        let got = run(device, &program, &inputs, &choices);
        for (n, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!("{attention:?} {layout:?} {dims:?}: output {n}");
            common::assert_close(got, want, 2e-5, 1e-4, &what);
        }
        assert_eq!(run(device, &program, &inputs, &choices), got, "runs differ: {attention:?} {dims:?}");
    }
}

const ROWS: [Option<AttentionVariant>; 2] =
    [Some(AttentionVariant::Rows { rows: 2, span: 16 }), Some(AttentionVariant::Rows { rows: 1, span: 8 })];
const TILES: [Option<AttentionVariant>; 1] = [Some(AttentionVariant::Tiles { block: 32 })];

#[test]
fn attention_of_random_extents_agrees_with_its_definition() {
    let Some(device) = device() else { return };
    for seed in 0..10u32 {
        let draw = |n: u32, limit: usize| philox::word(n, 5, seed, [6, 7]) as usize % limit;
        let group = [1, 2, 3][draw(0, 3)];
        let kv_heads = 1 + draw(1, 2);
        let (queries, keys, width) = (1 + draw(2, 40), 1 + draw(3, 40), 1 + draw(4, 33));
        let window = (draw(5, 3) == 0).then(|| 1 + draw(6, 20));
        let layout = [Layout::Plain, Layout::HeadsFirst, Layout::Packed][draw(7, 3)];
        let keys = if layout == Layout::Packed { queries } else { keys };
        let heads = [1 + draw(8, 2), group * kv_heads, kv_heads];
        let d = dims(heads, [queries, keys, width], draw(9, 2) == 0, window, draw(10, 3) == 0);
        let variant = if seed % 2 == 0 { ROWS[draw(11, 2)] } else { TILES[0] };
        compare(&device, &d, layout, &[variant]);
    }
}

#[test]
fn both_families_take_masks_windows_groups_and_packed_operands() {
    let Some(device) = device() else { return };
    let all = [ROWS[0], TILES[0]];
    compare(&device, &dims([2, 4, 2], [37, 37, 16], true, Some(9), true), Layout::Packed, &all);
    compare(&device, &dims([2, 2, 2], [19, 70, 8], false, Some(5), true), Layout::HeadsFirst, &all);
    // Later queries see no key at all.
    compare(&device, &dims([1, 2, 1], [40, 9, 5], true, Some(4), false), Layout::Plain, &all);
}

#[test]
fn blocks_of_64_and_single_rows_agree_with_the_definition() {
    let Some(device) = device() else { return };
    let block = Some(AttentionVariant::Tiles { block: 64 });
    let wide = Some(AttentionVariant::Rows { rows: 1, span: 8 });
    compare(&device, &dims([1, 2, 2], [130, 100, 33], true, None, false), Layout::Plain, &[block, wide]);
}

#[test]
fn heads_of_width_256_agree_with_the_definition() {
    let Some(device) = device() else { return };
    compare(&device, &dims([1, 2, 1], [21, 21, 256], true, None, false), Layout::Packed, &[None]);
}

#[test]
#[ignore = "a software adapter compiles tiles of this width for a minute"]
fn tiles_of_width_256_on_the_gpu_agree_with_the_definition() {
    let Some(device) = device() else { return };
    compare(&device, &dims([1, 2, 1], [21, 21, 256], true, None, false), Layout::Packed, &TILES);
}

#[test]
fn empty_sequences_give_zeros() {
    let Some(device) = device() else { return };
    let d = dims([1, 2, 1], [5, 0, 4], false, None, false);
    let got =
        run(&device, &program(&d, Layout::Plain), &inputs(&program(&d, Layout::Plain)), &Choices::default());
    assert!(got.iter().take(3).flatten().all(|&v| v == 0.0), "{got:?}");
}

#[test]
#[ignore = "a measurement"]
fn time_of_attention_on_the_gpu() {
    if device().is_none() {
        return;
    }
    let variant = |rows, span| Some(AttentionVariant::Rows { rows, span });
    let sizes = [("gpt-nano", [8, 4, 4], [128, 128, 32]), ("gpt-mini", [4, 6, 6], [256, 256, 64])];
    for (name, heads, lengths) in sizes {
        let program = program(&dims(heads, lengths, true, None, false), Layout::Packed);
        let flops: Vec<u64> = program.steps.iter().map(|s| s.kernel.flops()).collect();
        let inputs = inputs(&program);
        for attention in [variant(1, 16), variant(2, 8), variant(2, 16), None] {
            // A device of its own: shaders are compiled at their first dispatch.
            let device = GpuBackend::new().open_gpu("gpu:0").unwrap();
            let start = Instant::now();
            let choices = Choices { attention, ..Choices::default() };
            let executable = device.prepare_with(Arc::new(program.clone()), &choices).unwrap();
            let prepared = start.elapsed();
            device.set_profiling(true).unwrap();
            let uploads: Vec<_> = inputs
                .iter()
                .zip(&program.inputs)
                .map(|(data, s)| device.upload(&encode(s.dtype, data), s.dtype).unwrap())
                .collect();
            let mut best = [u64::MAX; 3];
            let mut first = None;
            for _ in 0..40 {
                let out = executable.run(uploads.clone(), &[]).unwrap();
                decode(DType::F32, &device.read(&out.results[1], DType::F32).unwrap().wait().unwrap());
                first.get_or_insert(start.elapsed());
                for (best, time) in best.iter_mut().zip(executable.profile().unwrap()) {
                    *best = (*best).min(time.nanos);
                }
            }
            let [forward, grad_q, grad_kv] = best.map(|n| n as f64 / 1e6);
            println!(
                "{name} {attention:?}: forward {forward:.2} ms ({:.0} GFLOP/s), gradient {grad_q:.2} + {grad_kv:.2} ms \
                 ({:.0} GFLOP/s), prepared in {prepared:.2?}, first run after {:.2?}",
                flops[0] as f64 / forward / 1e6,
                flops[1] as f64 / (grad_q + grad_kv) / 1e6,
                first.unwrap(),
            );
        }
    }
}

#[test]
fn the_tiles_of_attention_and_of_its_gradient_are_chosen_by_trying() {
    let Some(_) = device() else { return };
    let device = GpuBackend::new().open_gpu("gpu:0").unwrap();
    let candidates = [AttentionVariant::Rows { rows: 1, span: 8 }, AttentionVariant::Tiles { block: 32 }];
    device.autotune(&candidates, None);
    let program = program(&dims([1, 4, 2], [30, 30, 8], true, None, false), Layout::Packed);
    let executable = device.prepare(Arc::new(program.clone())).unwrap();
    let found = device.tuning();
    let classes = ["attention 1x4 of 2 32x32x8 causal", "attention_grad 1x4 of 2 32x32x8 causal"];
    assert_eq!(found.keys().collect::<Vec<_>>(), classes);
    assert!(found.values().all(|v| ["rows 1 8", "tiles 32"].contains(&v.as_str())), "{found:?}");
    let inputs = inputs(&program);
    let buffers = inputs.iter().map(|data| device.upload(&encode(DType::F32, data), DType::F32).unwrap());
    let run = executable.run(buffers.collect(), &[]).unwrap();
    let got = outputs(&device, &program, &run).unwrap();
    for (g, w) in got.iter().zip(&run_program(&program, &inputs, &[], Rounding::EachOperation)) {
        common::assert_close(g, w, 2e-5, 1e-4, "tuned");
    }
    // A choice of another kind of kernel, as only a damaged file or checkpoint holds it, is none.
    device.set_tuning(&[(classes[0].to_owned(), "tiled 32".to_owned())].into()).unwrap();
    device.prepare(Arc::new(program)).unwrap();
    assert!(["rows 1 8", "tiles 32"].contains(&device.tuning()[classes[0]].as_str()));
}
