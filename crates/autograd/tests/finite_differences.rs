//! Every rule against central differences, through the reference interpreter in `f64`.

mod common;

use common::{check, push};
use wgrad_autograd::grad;
use wgrad_ir::{BinaryOp, CompareOp, ConvAxis, ConvSpec, DType, Graph, Literal, Op, ReduceOp, UnaryOp};

#[test]
fn unary_rules_match_finite_differences() {
    for &op in UnaryOp::ALL {
        let domain = match op {
            UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip => (0.2, 3.0),
            UnaryOp::Not => continue,
            _ => (-1.9, 1.9),
        };
        check(&[&[2, 5]], domain, |g, x| push(g, Op::Unary(op), x));
    }
}

#[test]
fn binary_rules_match_finite_differences() {
    for &op in BinaryOp::ALL {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            continue;
        }
        check(&[&[3, 4], &[3, 4]], (0.3, 2.7), |g, x| push(g, Op::Binary(op), x));
        // An operand that occurs twice collects both parts.
        if !matches!(op, BinaryOp::Rem | BinaryOp::Max | BinaryOp::Min) {
            check(&[&[5]], (0.3, 2.7), |g, x| push(g, Op::Binary(op), &[x[0], x[0]]));
        }
    }
    check(&[&[6], &[6]], (-3.0, -0.5), |g, x| push(g, Op::Binary(BinaryOp::Rem), x));
}

#[test]
fn select_and_cast_rules_match_finite_differences() {
    check(&[&[7], &[7]], (-1.0, 1.0), |g, x| {
        let c = push(g, Op::Compare(CompareOp::Lt), x);
        push(g, Op::Select, &[c, x[1], x[0]])
    });
    check(&[&[7]], (-1.0, 1.0), |g, x| {
        let narrow = push(g, Op::Cast(DType::F32), x);
        push(g, Op::Cast(DType::F64), &[narrow])
    });
}

#[test]
fn movement_rules_match_finite_differences() {
    let fill = Literal::from_f64(DType::F64, 3.0);
    let movements = [
        Op::Reshape([4, 6].into()),
        Op::Permute([2, 0, 1].into_iter().collect()),
        Op::Slice { ranges: [(1, 1, 1), (0, 3, 1), (2, 2, 1)].into_iter().collect() },
        Op::Slice { ranges: [(0, 2, 1), (0, 2, 2), (1, 1, 3)].into_iter().collect() },
        Op::Slice { ranges: [(1, 1, 4), (1, 1, 2), (0, 2, 3)].into_iter().collect() },
        Op::Slice { ranges: [(0, 2, 1), (2, 0, 1), (0, 4, 1)].into_iter().collect() },
        Op::Pad { widths: [(1, 0), (0, 2), (3, 1)].into_iter().collect(), fill },
        Op::Flip([0, 2].into_iter().collect()),
    ];
    for op in movements {
        check(&[&[2, 3, 4]], (-1.0, 1.0), |g, x| push(g, op.clone(), x));
    }
    check(&[&[2, 1, 1]], (-1.0, 1.0), |g, x| push(g, Op::Expand([2, 3, 4].into()), x));
    check(&[&[2, 1, 3]], (-1.0, 1.0), |g, x| push(g, Op::Expand([2, 1, 3].into()), x));
    check(&[&[2, 3], &[2, 1], &[2, 4]], (-1.0, 1.0), |g, x| push(g, Op::Concat { axis: 1 }, x));
}

#[test]
fn window_rules_match_finite_differences() {
    for (size, step, dilation) in
        [(1, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (2, 3, 1), (3, 2, 2), (2, 5, 4), (7, 1, 1)]
    {
        check(&[&[2, 7, 3]], (-1.0, 1.0), |g, x| push(g, Op::Window { axis: 1, size, step, dilation }, x));
    }
    check(&[&[6, 5]], (-1.0, 1.0), |g, x| {
        let rows = push(g, Op::Window { axis: 0, size: 3, step: 2, dilation: 1 }, x);
        push(g, Op::Window { axis: 1, size: 2, step: 1, dilation: 2 }, &[rows])
    });
}

#[test]
fn convolution_rules_match_finite_differences() {
    let axis = |stride, dilation, spread, before, after| ConvAxis { stride, dilation, spread, before, after };
    let lines = [
        axis(1, 1, 1, 0, 0),
        axis(1, 1, 1, 2, 1),
        axis(2, 1, 1, 1, 0),
        axis(2, 2, 1, 3, 2),
        axis(3, 1, 1, 0, 0),
        axis(1, 1, 2, 2, 1),
        axis(1, 2, 3, 0, 1),
        axis(2, 1, 3, 1, 1),
        axis(3, 2, 2, -1, 3),
        axis(1, 1, 1, -2, -1),
    ];
    for line in lines {
        for by_group in [false, true] {
            let spec = ConvSpec { axes: [line].into_iter().collect(), by_group };
            check(&[&[2, 2, 2, 7], &[2, 3, 2, 3]], (-1.0, 1.0), |g, x| push(g, Op::Conv(spec.clone()), x));
        }
    }
    let spec = ConvSpec { axes: [lines[2], lines[5]].into_iter().collect(), by_group: false };
    check(&[&[2, 1, 2, 5, 3], &[1, 2, 2, 3, 2]], (-1.0, 1.0), |g, x| push(g, Op::Conv(spec.clone()), x));
    // Padding wider than the filter reaches, and channels alone.
    let wide = ConvSpec { axes: [axis(1, 1, 1, 4, 5)].into_iter().collect(), by_group: false };
    check(&[&[1, 1, 1, 2], &[1, 1, 1, 2]], (-1.0, 1.0), |g, x| push(g, Op::Conv(wide.clone()), x));
    let none = ConvSpec { axes: [].into_iter().collect(), by_group: false };
    check(&[&[2, 2, 3], &[2, 2, 3]], (-1.0, 1.0), |g, x| push(g, Op::Conv(none.clone()), x));
}

#[test]
fn reduce_rules_match_finite_differences() {
    for &op in ReduceOp::ALL {
        for axes in [vec![], vec![1], vec![0, 2], vec![0, 1, 2]] {
            let axes: smallvec::SmallVec<[usize; 6]> = axes.into_iter().collect();
            check(&[&[2, 3, 4]], (-1.0, 1.0), |g, x| push(g, Op::Reduce { op, axes: axes.clone() }, x));
        }
    }
}

#[test]
fn contraction_and_index_rules_match_finite_differences() {
    check(&[&[3, 4], &[4, 5]], (-1.0, 1.0), |g, x| push(g, Op::Dot, x));
    check(&[&[2, 2, 3, 1], &[2, 2, 1, 2]], (-1.0, 1.0), |g, x| push(g, Op::Dot, x));
    // Ids 0 1 2 0 1 2 (repeated, one row unused) from an iota.
    let ids = |g: &mut Graph| {
        let iota = push(g, Op::Iota { len: 3 }, &[]);
        let iota = push(g, Op::Reshape([1, 3].into()), &[iota]);
        push(g, Op::Expand([2, 3].into()), &[iota])
    };
    check(&[&[4, 2]], (-1.0, 1.0), |g, x| {
        let ids = ids(g);
        push(g, Op::Gather, &[x[0], ids])
    });
    check(&[&[2, 3, 2]], (-1.0, 1.0), |g, x| {
        let ids = ids(g);
        push(g, Op::ScatterAdd { rows: 4 }, &[ids, x[0]])
    });
}

#[test]
fn second_derivatives_match_finite_differences() {
    check(&[&[4]], (0.3, 1.5), |g, x| {
        let sin = push(g, Op::Unary(UnaryOp::Sin), x);
        let pow = push(g, Op::Binary(BinaryOp::Pow), &[x[0], sin]);
        let total = push(g, Op::Reduce { op: ReduceOp::Sum, axes: [0].into_iter().collect() }, &[pow]);
        grad(g, total, &[x[0]]).unwrap()[0].unwrap()
    });
    let spec = ConvSpec {
        axes: [ConvAxis { stride: 2, before: 1, ..ConvAxis::default() }].into_iter().collect(),
        by_group: false,
    };
    check(&[&[1, 1, 2, 5], &[1, 2, 2, 3]], (-1.0, 1.0), |g, x| {
        let y = push(g, Op::Conv(spec.clone()), x);
        let y = push(g, Op::Unary(UnaryOp::Sin), &[y]);
        let total = push(g, Op::Reduce { op: ReduceOp::Sum, axes: (0..4).collect() }, &[y]);
        let gradients = grad(g, total, x).unwrap();
        let [dx, dw] = [gradients[0].unwrap(), gradients[1].unwrap()];
        let dx = push(g, Op::Reduce { op: ReduceOp::Sum, axes: (0..4).collect() }, &[dx]);
        let dx = push(g, Op::Expand([1, 2, 2, 3].into()), &[dx]);
        push(g, Op::Binary(BinaryOp::Mul), &[dw, dx])
    });
}
