//! Values against closed forms and naive loops.

mod common;

use common::{assert_close, cpu, leaf, numbers};
use proptest::prelude::*;
use wgrad_tensor::{DType, Tensor};

/// Indices of a shape in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &extent in shape {
        all = all.iter().flat_map(|i| (0..extent).map(move |x| [i.as_slice(), &[x]].concat())).collect();
    }
    all
}

/// The element of a row-major list at an index that may have more axes, and larger extents where the shape has 1.
fn at(values: &[f64], shape: &[usize], index: &[usize]) -> f64 {
    let tail = &index[index.len() - shape.len()..];
    values[shape.iter().zip(tail).fold(0, |n, (&d, &i)| n * d + if d == 1 { 0 } else { i })]
}

/// A shape of up to four axes, and two shapes that broadcast to it.
fn broadcastable() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    let axis = (1usize..6, any::<bool>(), any::<bool>());
    (prop::collection::vec(axis, 0..5), 0usize..3).prop_map(|(axes, cut)| {
        let a: Vec<usize> = axes.iter().map(|&(d, one, _)| if one { 1 } else { d }).collect();
        let b: Vec<usize> = axes.iter().map(|&(d, one, other)| if other && !one { 1 } else { d }).collect();
        let b = b[cut.min(b.len())..].to_vec();
        let common = (0..a.len())
            .map(|i| a[i].max(if i + b.len() < a.len() { 1 } else { b[i + b.len() - a.len()] }))
            .collect();
        (a, b, common)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn broadcasting_agrees_with_a_loop((a, b, common) in broadcastable()) {
        let d = cpu();
        let x = numbers(a.iter().product(), (-2.0, 2.0), 0);
        let y = numbers(b.iter().product(), (-2.0, 2.0), 1);
        let (tx, ty) = (leaf::<f64>(&x, &a, &d), leaf::<f64>(&y, &b, &d));
        let expected = |f: fn(f64, f64) -> f64| -> Vec<f64> {
            indices(&common).iter().map(|i| f(at(&x, &a, i), at(&y, &b, i))).collect()
        };
        let difference = &tx - &ty;
        prop_assert_eq!(difference.shape().dims(), common.as_slice());
        prop_assert_eq!(difference.to_vec::<f64>().unwrap(), expected(|x, y| x - y));
        prop_assert_eq!((&ty * &tx).to_vec::<f64>().unwrap(), expected(|x, y| x * y));
        let larger = tx.gt(&ty).where_(&tx, &ty);
        prop_assert_eq!(larger.to_vec::<f64>().unwrap(), expected(f64::max));
        let summed = wgrad_tensor::grad(&difference.sum_all(), &[&ty]).unwrap();
        let copies = (indices(&common).len() / y.len()) as f64;
        prop_assert_eq!(summed[0].to_vec::<f64>().unwrap(), vec![-copies; y.len()]);
    }

    #[test]
    fn reductions_of_permuted_tensors_agree_with_a_loop(
        shape in prop::collection::vec(1usize..6, 1..5),
        turn in 0usize..4,
        chosen in prop::collection::vec(any::<bool>(), 4),
        keepdim: bool,
    ) {
        let d = cpu();
        let rank = shape.len();
        let values = numbers(shape.iter().product(), (-2.0, 2.0), 2);
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.rotate_left(turn % rank);
        let axes: Vec<usize> = (0..rank).filter(|&a| chosen[a]).collect();
        let dims: Vec<isize> = axes.iter().map(|&a| a as isize - rank as isize).collect();
        let x = leaf::<f64>(&values, &shape, &d).permute(&perm);
        // No axes are all axes.
        let axes = if axes.is_empty() { (0..rank).collect() } else { axes };
        let kept: Vec<usize> = (0..rank).map(|a| if axes.contains(&a) { 1 } else { shape[perm[a]] }).collect();
        let (mut sums, mut maxima) = (vec![0.0; kept.iter().product()], vec![f64::MIN; kept.iter().product()]);
        for index in indices(&shape) {
            let to = (0..rank).fold(0, |n, a| n * kept[a] + if axes.contains(&a) { 0 } else { index[perm[a]] });
            let value = at(&values, &shape, &index);
            sums[to] += value;
            maxima[to] = maxima[to].max(value);
        }
        let sum = x.sum(&dims, keepdim);
        prop_assert_eq!(sum.rank(), if keepdim { rank } else { rank - axes.len() });
        assert_close("sum", &sum.to_vec::<f64>().unwrap(), &sums, 1e-12);
        prop_assert_eq!(x.amax(&dims, keepdim).to_vec::<f64>().unwrap(), maxima);
    }

    #[test]
    fn matrix_products_agree_with_a_loop(
        batch_a in prop::collection::vec(1usize..3, 0..3),
        [m, k, n] in [1usize..9, 1usize..9, 1usize..9],
        transpose: bool,
    ) {
        let d = cpu();
        let shape: Vec<usize> = [batch_a.as_slice(), &[m, k]].concat();
        let a = numbers(shape.iter().product(), (-1.0, 1.0), 0);
        let b = numbers(k * n, (-1.0, 1.0), 1);
        let right = if transpose { leaf::<f64>(&b, &[n, k], &d).t() } else { leaf::<f64>(&b, &[k, n], &d) };
        let c = leaf::<f64>(&a, &shape, &d).matmul(&right);
        let rows = a.len() / k;
        let expected: Vec<f64> = (0..rows * n)
            .map(|i| {
                let (row, col) = (i / n, i % n);
                let b_at = |j: usize| if transpose { b[col * k + j] } else { b[j * n + col] };
                (0..k).map(|j| a[row * k + j] * b_at(j)).sum()
            })
            .collect();
        assert_close("matmul", &c.to_vec::<f64>().unwrap(), &expected, 1e-12);
    }
}

#[test]
fn composed_functions_agree_with_their_formulas() {
    let d = cpu();
    let v = numbers(24, (-3.0, 3.0), 4);
    let x = leaf::<f64>(&v, &[4, 6], &d);
    let each = |f: fn(f64) -> f64| v.iter().map(|&x| f(x)).collect::<Vec<_>>();
    let close = |what: &str, t: Tensor, expected: Vec<f64>| {
        assert_close(what, &t.to_vec::<f64>().unwrap(), &expected, 1e-12)
    };
    close("sigmoid", x.sigmoid(), each(|x| 1.0 / (1.0 + (-x).exp())));
    close("silu", x.silu(), each(|x| x / (1.0 + (-x).exp())));
    close("relu", x.relu(), each(|x| x.max(0.0)));
    close("clamp", x.clamp(-1.0, 0.5), each(|x| x.clamp(-1.0, 0.5)));
    close("clamp", x.clamp(3.0, 1.0), each(|_| 1.0));
    close(
        "gelu_tanh",
        x.gelu_tanh(),
        each(|x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())),
    );
    // From tables of the error function: gelu(1) = (1 + erf(0.70710678)) / 2, gelu(-2) likewise.
    let points = Tensor::from_vec(vec![0.0f64, 1.0, -2.0], [3], &d);
    close("gelu", points.gelu(), vec![0.0, 0.841_344_746_068_542_9, -0.045_500_263_896_358_4]);

    let rows: Vec<&[f64]> = v.chunks(6).collect();
    let lse: Vec<f64> = rows.iter().map(|r| r.iter().map(|x| x.exp()).sum::<f64>().ln()).collect();
    close("logsumexp", x.logsumexp(&[1], false), lse.clone());
    let log_softmax =
        rows.iter().zip(&lse).flat_map(|(r, l)| r.iter().map(move |x| x - l)).collect::<Vec<_>>();
    close("softmax", x.softmax(-1), log_softmax.iter().map(|x| x.exp()).collect());
    close("log_softmax", x.log_softmax(1), log_softmax);
    let mean: Vec<f64> = rows.iter().map(|r| r.iter().sum::<f64>() / 6.0).collect();
    let squares: Vec<f64> =
        rows.iter().zip(&mean).map(|(r, m)| r.iter().map(|x| (x - m).powi(2)).sum()).collect();
    close("mean", x.mean(&[1], true), mean);
    close("var", x.var(&[1], true, false), squares.iter().map(|s| s / 5.0).collect());
    close("biased var", x.var(&[1], false, false), squares.iter().map(|s| s / 6.0).collect());
}

#[test]
fn softmax_of_large_elements_does_not_overflow() {
    let x = Tensor::from_vec(vec![1e4f32, 1e4, -1e4], [3], &cpu());
    assert_eq!(x.softmax(0).to_vec::<f32>().unwrap(), [0.5, 0.5, 0.0]);
    let ln2 = 2f32.ln();
    assert_eq!(x.log_softmax(0).to_vec::<f32>().unwrap(), [-ln2, -ln2, -2e4 - ln2]);
}

#[test]
fn views_of_views_find_their_elements() {
    let d = cpu();
    let x = Tensor::arange(24, &d).reshape([2, 3, 4]);
    let list = |t: &Tensor| t.to_vec::<i32>().unwrap();
    assert_eq!(list(&x.permute(&[2, 0, 1]).narrow(0, 1, 1).flatten(0, -1)), [1, 5, 9, 13, 17, 21]);
    assert_eq!(list(&x.flip(&[0, 2]).slice(2, 0, 4, 3).narrow(1, 2, 1).reshape([4])), [23, 20, 11, 8]);
    let padded = x.narrow(0, 0, 1).squeeze(0).narrow(1, 0, 2).pad(&[(1, 0), (0, 1)], -1.0);
    assert_eq!(list(&padded), [-1, -1, -1, 0, 1, -1, 4, 5, -1, 8, 9, -1]);
    assert_eq!(list(&padded.t().reshape([4, 3]).narrow(0, 1, 1)), [8, -1, 1]);
    let parts = Tensor::arange(7, &d).split(3, 0);
    assert_eq!(parts.iter().map(|p| list(p).len()).collect::<Vec<_>>(), [3, 3, 1]);
    let chunks = Tensor::arange(4, &d).chunk(3, 0);
    assert_eq!(chunks.iter().map(list).collect::<Vec<_>>(), [vec![0, 1], vec![2, 3], vec![]]);
    let mask = Tensor::full([2], 1.0, DType::Bool, &d);
    assert_eq!(list(&mask.where_(&chunks[0], &chunks[1])), [0, 1]);
}
