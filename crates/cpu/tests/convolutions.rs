//! Conv kernels against their naive evaluation.

mod common;

use common::*;
use proptest::prelude::*;
use wgrad_ir::{
    BinaryOp, BufferRef, ConvAxis, ConvKernel, ConvSpec, DType, Expr, ExprId, ExprNode, Kernel, Literal,
    Operand, Program, Shape, Store, UnaryOp, View,
};

/// A view of `shape` with its axes in some order in memory, gaps, and perhaps the axes from the fourth on reversed.
fn operand_view(draw: &mut Draw, shape: &Shape) -> View {
    let mut view =
        if draw.next(3) == 0 { View::contiguous(shape.clone()) } else { strided_view(draw, shape) };
    if draw.next(3) == 0 {
        for d in 3..shape.rank() {
            view.offset += view.strides[d] * (shape[d] as i64 - 1);
            view.strides[d] = -view.strides[d];
        }
    }
    view
}

/// Elements that a view with any strides reaches.
fn span(view: &View) -> usize {
    let steps = (0..view.shape.rank()).map(|d| view.strides[d].max(0) * (view.shape[d] as i64 - 1));
    (view.offset + steps.sum::<i64>()) as usize + 1
}

fn check_conv(draw: &mut Draw, how: ConvSpec, x: Shape, w: Shape, dtype: DType) -> Result<(), TestCaseError> {
    let Some(result) = how.result(&x, &w) else { return Ok(()) };
    let (x, w) = (operand_view(draw, &x), operand_view(draw, &w));
    let node = |expr| ExprNode { expr, dtype };
    let mut exprs = vec![node(Expr::Product)];
    let mut stores = vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(result.clone()) }];
    let mut results = vec![spec(result.clone(), dtype)];
    let fused = draw.next(2) == 0;
    if fused {
        // A bias by filter, and what is left of it; kept too, where it lies anywhere.
        let mut strides = vec![0; result.rank()];
        strides[if how.by_group { 1 } else { 2 }] = 1;
        let bias = View { shape: result.clone(), strides: strides.into(), offset: 0, mask: None };
        let fill = Literal::from_f64(dtype, 0.0);
        exprs.push(node(Expr::Load { arg: 4, map: bias.into(), fill }));
        exprs.push(node(Expr::Binary(BinaryOp::Add, ExprId(0), ExprId(1))));
        exprs.push(node(Expr::Unary(UnaryOp::Abs, ExprId(2))));
        stores[0].value = ExprId(3);
        let view = strided_view(draw, &result);
        results.push(spec([reach(&view)], dtype));
        stores.push(Store { arg: 1, value: ExprId(2), view });
    }
    let first = results.len() as u32;
    let mut inputs = Vec::new();
    // Whole numbers, so that every order of summation gives the same.
    for n in [span(&x), span(&w), result.iter().product::<usize>().max(1)] {
        let numbers = (0..n).map(|_| Literal::from_f64(dtype, draw.next(15) as f64 - 7.0));
        inputs.push(numbers.collect::<Buf>());
    }
    let specs = inputs.iter().map(|b| spec([b.len()], dtype)).collect();
    let mut args: Vec<BufferRef> = (0..first).map(BufferRef::Output).collect();
    args.extend([0, 1, 2].map(BufferRef::Input));
    let (x, w) = (Operand { arg: first, view: x }, Operand { arg: first + 1, view: w });
    for node in &mut exprs {
        if let Expr::Load { arg, .. } = &mut node.expr {
            *arg = first + 2;
        }
    }
    let kernel = Kernel::Conv(ConvKernel {
        spec: how,
        dtype,
        operands: [dtype; 2],
        x,
        w,
        exprs,
        stores: stores.clone(),
    });
    let p: Program = program(specs, results, vec![], kernel, args);
    let want = evaluate(&p, &inputs, &[]);
    let got = run(&p, &inputs, &[]).map_err(|e| TestCaseError::fail(e.to_string()))?;
    for (i, store) in stores.iter().enumerate() {
        check_view(&store.view, &got[i], &want[i], 0.0)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_equal_their_naive_evaluation(
        rank in 1usize..4, n in 1usize..4, g in 1usize..4, c in 1usize..6, o in 1usize..19,
        wide in prop::option::weighted(0.2, 60usize..140), many in prop::option::weighted(0.2, 20usize..90),
        by_group: bool, double in prop::bool::weighted(0.2), seed: u64,
    ) {
        let mut draw = Draw(seed);
        let (mut axes, mut x, mut w) = (Vec::new(), vec![n, g, c], vec![g, o, c]);
        for d in 0..rank {
            let last = d + 1 == rank;
            let mut extent = 1 + draw.next(if rank == 3 { 5 } else { 9 });
            let mut taps = 1 + draw.next(4);
            if let (Some(more), true) = (wide, last) {
                extent = more;
                if by_group && draw.next(2) == 0 {
                    taps = more - draw.next(4);
                }
            }
            let [stride, dilation] = [1 + draw.next(3), 1 + draw.next(3)];
            let [before, after] = [draw.next(4) as i64, draw.next(4) as i64];
            axes.push(ConvAxis { stride, dilation, before, after, ..ConvAxis::default() });
            x.push(extent);
            w.push(taps);
        }
        if let (Some(more), true) = (many, rank < 3) {
            // Channels of a filter, or filters of a group.
            if draw.next(2) == 0 { (x[2], w[2]) = (more, more) } else { w[1] = more }
        }
        let dtype = if double { DType::F64 } else { DType::F32 };
        check_conv(&mut draw, ConvSpec { axes: axes.into_iter().collect(), by_group }, x.into(), w.into(), dtype)?;
    }
}

#[test]
fn convolutions_of_many_blocks_equal_their_naive_evaluation() {
    // Rows too long for one block, more filters than one block has, more terms than are summed up at once, many groups.
    let axis =
        |stride, dilation, before, after| ConvAxis { stride, dilation, before, after, ..ConvAxis::default() };
    type Case<'a> = (&'a [ConvAxis], bool, &'a [usize], &'a [usize]);
    let all: [Case<'_>; 8] = [
        (&[axis(1, 1, 1, 1)], false, &[1, 1, 2, 2500], &[1, 9, 2, 3]),
        (&[axis(2, 1, 3, 3)], false, &[1, 1, 3, 2100], &[1, 4, 3, 7]),
        (&[axis(1, 1, 1, 1); 2], false, &[1, 1, 70, 9, 11], &[1, 13, 70, 3, 3]),
        (&[axis(1, 1, 1, 1); 2], true, &[70, 1, 2, 12, 11], &[1, 101, 2, 12, 11]),
        (&[axis(1, 2, 1, 0); 2], true, &[3, 1, 2, 31, 31], &[1, 17, 2, 15, 15]),
        (&[axis(1, 1, 1, 1); 2], true, &[1, 20, 3, 40, 33], &[20, 1, 3, 40, 33]),
        (&[axis(1, 2, 1, 1); 2], true, &[2, 9, 2, 60, 33], &[9, 3, 2, 30, 17]),
        (&[axis(1, 1, 1, 1); 2], false, &[2, 20, 1, 40, 33], &[20, 1, 1, 3, 3]),
    ];
    for (i, (axes, by_group, x, w)) in all.into_iter().enumerate() {
        let spec = ConvSpec { axes: axes.iter().copied().collect(), by_group };
        for seed in [1, 2] {
            check_conv(&mut Draw(seed), spec.clone(), x.into(), w.into(), DType::F32)
                .unwrap_or_else(|e| panic!("case {i}: {e}"));
        }
    }
}
