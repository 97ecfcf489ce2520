//! Gradients against central differences, through the reference interpreter in `f64`.

use wgrad_autograd::grad;
use wgrad_ir::reference::node_values;
use wgrad_ir::{BinaryOp, DType, Graph, NodeId, Op, ReduceOp, Shape};

/// Deterministic numbers spread over `[low, high]`, none of them equal.
pub(crate) fn numbers(count: usize, low: f64, high: f64, salt: usize) -> Vec<f64> {
    let golden = 0.618_033_988_749_895;
    (0..count).map(|i| low + (high - low) * ((i + 1 + 31 * salt) as f64 * golden).fract()).collect()
}

/// Builds `loss = Σ y w` with arbitrary weights `w`, so that each element of `y` has a cotangent of its own, and compares the
/// gradients for all inputs with central differences to 1e-6.
pub(crate) fn check(
    shapes: &[&[usize]],
    domain: (f64, f64),
    build: impl Fn(&mut Graph, &[NodeId]) -> NodeId,
) {
    let mut g = Graph::new();
    let input = |g: &mut Graph, index: usize, shape: Shape| {
        g.push(Op::Input { index: index as u32, shape, dtype: DType::F64 }, &[]).unwrap()
    };
    let xs: Vec<NodeId> = shapes.iter().enumerate().map(|(i, &s)| input(&mut g, i, s.into())).collect();
    let y = build(&mut g, &xs);
    let shape = g.node(y).shape.clone();
    let w = input(&mut g, shapes.len(), shape.clone());
    let weighted = g.push(Op::Binary(BinaryOp::Mul), &[y, w]).unwrap();
    let axes = (0..shape.rank()).collect();
    let loss = g.push(Op::Reduce { op: ReduceOp::Sum, axes }, &[weighted]).unwrap();

    let mut values: Vec<Vec<f64>> =
        shapes.iter().enumerate().map(|(i, s)| numbers(s.iter().product(), domain.0, domain.1, i)).collect();
    values.push(numbers(shape.elements(), -1.0, 1.0, 7));
    let forward = g.clone();
    let gradients = grad(&mut g, loss, &xs).unwrap();
    wgrad_ir::verify_graph(&g).unwrap();
    let results = node_values(&g, &values, &[]);
    for (i, gradient) in gradients.into_iter().enumerate() {
        let analytic = &results[gradient.expect("a differentiable path").index()];
        assert_eq!(analytic.len(), values[i].len());
        for element in 0..values[i].len() {
            let h = 1e-5;
            let at = |shift: f64| {
                let mut moved = values.clone();
                moved[i][element] += shift;
                node_values(&forward, &moved, &[])[loss.index()][0]
            };
            let numeric = (at(h) - at(-h)) / (2.0 * h);
            let error = (analytic[element] - numeric).abs() / numeric.abs().max(1.0);
            assert!(
                error < 1e-6,
                "input {i}[{element}]: {} analytically, {numeric} numerically",
                analytic[element]
            );
        }
    }
}

/// Appends a node that fits.
pub(crate) fn push(g: &mut Graph, op: Op, inputs: &[NodeId]) -> NodeId {
    g.push(op, inputs).unwrap()
}
