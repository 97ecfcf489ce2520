//! Compiled programs compute what their graphs say, whichever passes run: random graphs against the reference interpreters.

use proptest::{prelude::*, strategy::ValueTree};
use wgrad_compile::{Options, compile};
use wgrad_ir::reference::{
    Choice, RANDOM_GRAPH_SCALARS, Rounding, random_graph, random_graph_inputs, run_graph, run_program,
};
use wgrad_ir::{DeviceCaps, Kernel, Op};

fn gpu_like() -> DeviceCaps {
    DeviceCaps {
        bool_bytes: 4,
        half_operands: true,
        max_bindings: 8,
        max_workgroup_invocations: 256,
        f64: false,
        ..DeviceCaps::cpu()
    }
}

/// The random graphs would prove little if they never met a mechanism: each occurs in some of them.
#[test]
fn random_graphs_meet_every_mechanism() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (dims(), choices(), prop::collection::vec(any::<usize>(), 0..3));
    let mut met = [
        ("row", 0),
        ("epilogue", 0),
        ("several reductions", 0),
        ("update", 0),
        ("part", 0),
        ("column sums", 0),
        ("attention", 0),
        ("cumulation", 0),
        ("loop", 0),
        ("convolution", 0),
        ("epilogue of a convolution", 0),
        ("window", 0),
    ];
    for _ in 0..2000 {
        let (dims, choices, wanted) = strategy.new_tree(&mut runner).unwrap().current();
        let mut g = random_graph(&dims, &choices, &wanted);
        g.set_donated(vec![0, 1]);
        let program =
            compile(&g, &DeviceCaps::cpu(), &Options::default()).unwrap_or_else(|e| panic!("{e}\n{g}"));
        let any = |f: &dyn Fn(&Kernel) -> bool| program.steps.iter().any(|s| f(&s.kernel));
        let part = |s: &wgrad_ir::Step| s.args.iter().any(|a| a.bytes < program.bytes(a.buffer));
        let hits = [
            any(&|k| matches!(k, Kernel::Row(_))),
            any(&|k| matches!(k, Kernel::MatMul(k) if !k.is_plain())),
            any(&|k| matches!(k, Kernel::Reduce(k) if k.outs.len() > 1)),
            !program.updates.is_empty(),
            program.steps.iter().any(part),
            any(&|k| matches!(k, Kernel::MatMul(k) if k.column_sums.is_some())),
            any(&|k| matches!(k, Kernel::Attention(_))),
            any(&|k| matches!(k, Kernel::Cumulate(_))),
            g.nodes().iter().zip(g.live()).any(|(n, live)| live && matches!(n.op, Op::Loop { .. })),
            any(&|k| matches!(k, Kernel::Conv(k) if !k.spec.axes.is_empty())),
            any(&|k| matches!(k, Kernel::Conv(k) if !k.is_plain())),
            g.nodes().iter().any(|n| matches!(n.op, Op::Window { size: 2.., .. })),
        ];
        met.iter_mut().zip(hits).for_each(|(m, hit)| m.1 += usize::from(hit));
    }
    assert!(met.iter().all(|m| m.1 >= MET), "{met:?}");
}

/// In how many of two thousand programs each mechanism occurs, at least.
const MET: usize = 4;

fn dims() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..5, 1..4)
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let numbers = [0usize..9, 0usize..9, 0usize..9];
    prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), numbers), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn programs_compute_what_graphs_say(
        dims in dims(),
        choices in choices(),
        wanted in prop::collection::vec(any::<usize>(), 0..3),
        passes in any::<u16>(),
        donate in any::<bool>(),
        gpu in any::<bool>(),
    ) {
        let mut g = random_graph(&dims, &choices, &wanted);
        if donate {
            g.set_donated(vec![0, 1]);
        }
        let (inputs, scalars) = (random_graph_inputs(&dims), RANDOM_GRAPH_SCALARS);
        let want = run_graph(&g, &inputs, &scalars);
        let caps = if gpu { gpu_like() } else { DeviceCaps::cpu() };
        for options in [Options::default(), Options::from_bits(passes)] {
            let program = compile(&g, &caps, &options).unwrap_or_else(|e| panic!("{e}\n{options:?}\n{g}"));
            for step in &program.steps {
                prop_assert!(step.args.len() <= caps.max_bindings.saturating_sub(1), "{}", program);
            }
            let got = run_program(&program, &inputs, &scalars, Rounding::None);
            for (want, got) in want.iter().zip(&got) {
                for (w, g_) in want.iter().zip(got) {
                    let close = (w - g_).abs() <= 1e-5 * w.abs().max(1.0) || w == g_ || w.is_nan() && g_.is_nan();
                    prop_assert!(close, "want {want:?}, got {got:?}\n{g}\n{program}");
                }
            }
        }
    }
}
