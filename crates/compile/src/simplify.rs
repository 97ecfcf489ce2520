//! Rewrites a graph into an equal, smaller one: constants folded, movements collapsed, equal nodes merged, dead
//! nodes dropped.
//!
//! Every rewrite is exact for finite values; none assumes that `x * 0` is 0, since `x` may be infinite.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{BinaryOp, DType, Graph, IrError, Literal, Node, NodeId, Op, Shape, UnaryOp};

/// The simplified graph. With `rewrite` off, only dead nodes are dropped and equal nodes merged (the identity
/// `StopGradient` stays, as an elementwise copy).
///
/// # Errors
/// A rewrite broke the graph, which is a defect.
pub fn simplify(graph: &Graph, rewrite: bool) -> Result<Graph, IrError> {
    let mut s = Simplifier { graph: Graph::new(), known: FxHashMap::default(), rewrite };
    let live = graph.live();
    let mut map: Vec<Option<NodeId>> = vec![None; graph.nodes().len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        // Operands precede users and are live because their user is, so they are mapped.
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().filter_map(|i| map[i.index()]).collect();
        map[id.index()] = Some(s.push(node.op.clone(), &inputs)?);
    }
    let mut out = s.graph;
    out.set_outputs(graph.outputs().iter().filter_map(|o| map[o.index()]).collect());
    // Rewrites leave nodes behind that nothing uses any more.
    prune(&out)
}

/// The graph without the nodes that no output depends on.
///
/// # Errors
/// Never for a valid graph.
pub fn prune(graph: &Graph) -> Result<Graph, IrError> {
    let live = graph.live();
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = vec![NodeId(0); graph.nodes().len()];
    for id in graph.ids().filter(|id| live[id.index()]) {
        let node = graph.node(id);
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map[id.index()] = out.push(node.op.clone(), &inputs)?;
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

/// The graph without its barriers: what they kept apart stays apart, since nothing merges equal nodes from here on.
///
/// # Errors
/// Never for a valid graph.
pub fn drop_barriers(graph: &Graph) -> Result<Graph, IrError> {
    let mut out = Graph::new();
    let mut map: Vec<NodeId> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let inputs: SmallVec<[NodeId; 3]> = node.inputs.iter().map(|i| map[i.index()]).collect();
        map.push(if matches!(node.op, Op::Barrier) {
            inputs[0]
        } else {
            out.push(node.op.clone(), &inputs)?
        });
    }
    out.set_outputs(graph.outputs().iter().map(|o| map[o.index()]).collect());
    Ok(out)
}

struct Simplifier {
    graph: Graph,
    known: FxHashMap<Node, NodeId>,
    rewrite: bool,
}

impl Simplifier {
    /// Adds a node, or returns one that computes the same.
    fn push(&mut self, op: Op, inputs: &[NodeId]) -> Result<NodeId, IrError> {
        if self.rewrite
            && let Some(same) = self.rewritten(&op, inputs)?
        {
            return Ok(same);
        }
        let id = self.graph.push(op, inputs)?;
        // The newest node is looked up by value; if an older one is equal, the new one stays behind, dead.
        let node = self.graph.node(id).clone();
        Ok(*self.known.entry(node).or_insert(id))
    }

    fn node(&self, id: NodeId) -> &Node {
        self.graph.node(id)
    }

    /// The constant that every element of `id` equals, if that is known.
    fn splat(&self, mut id: NodeId) -> Option<Literal> {
        loop {
            match &self.node(id).op {
                Op::Const(value) => return Some(*value),
                Op::Reshape(_)
                | Op::Expand(_)
                | Op::Permute(_)
                | Op::Slice { .. }
                | Op::Flip(_)
                | Op::Window { .. } => {
                    id = self.node(id).inputs[0];
                }
                _ => return None,
            }
        }
    }

    /// A constant of any shape: the one form in which they appear after this pass.
    fn push_splat(&mut self, value: Literal, shape: &Shape) -> Result<NodeId, IrError> {
        let mut id = self.push(Op::Const(value), &[])?;
        if shape.rank() > 0 {
            id = self.push_raw(Op::Reshape(shape.iter().map(|_| 1).collect()), id)?;
            if shape.iter().any(|&d| d != 1) {
                id = self.push_raw(Op::Expand(shape.clone()), id)?;
            }
        }
        Ok(id)
    }

    fn push_raw(&mut self, op: Op, input: NodeId) -> Result<NodeId, IrError> {
        let id = self.graph.push(op, &[input])?;
        let node = self.graph.node(id).clone();
        Ok(*self.known.entry(node).or_insert(id))
    }

    /// A node equal to `op` of `inputs` that is simpler than it, if there is one.
    fn rewritten(&mut self, op: &Op, inputs: &[NodeId]) -> Result<Option<NodeId>, IrError> {
        let Some(&x) = inputs.first() else { return Ok(None) };
        match op {
            Op::StopGradient => return Ok(Some(x)),
            Op::Cast(to) if self.node(x).dtype == *to => return Ok(Some(x)),
            // To a wider dtype and back.
            Op::Cast(to) if matches!(self.node(x).op, Op::Cast(_)) && to.is_narrow() => {
                let (there, from) = (self.node(x).dtype, self.node(x).inputs[0]);
                let exact =
                    there == to.wide() || *to == DType::U8 && there != DType::Bool && !there.is_half();
                return Ok((self.node(from).dtype == *to && exact).then_some(from));
            }
            Op::Concat { .. } if inputs.len() == 1 => return Ok(Some(x)),
            // Nothing comes before the first element.
            Op::Cumulate { axis, .. } if self.node(x).shape[*axis] == 1 => return Ok(inputs.last().copied()),
            Op::Reduce { axes, .. } if axes.iter().all(|&a| self.node(x).shape[a] == 1) => {
                return Ok(Some(x));
            }
            _ => {}
        }
        if op.is_movement() {
            return self.movement(op, x);
        }
        if op.is_elementwise() {
            if let Some(value) = self.fold(op, inputs) {
                let shape = self.node(x).shape.clone();
                return self.push_splat(value, &shape).map(Some);
            }
            if let Op::Binary(op) = op {
                return self.identity(*op, x, inputs[1]);
            }
            if let (Op::Unary(UnaryOp::Neg), Op::Unary(UnaryOp::Neg)) = (op, &self.node(x).op) {
                return Ok(Some(self.node(x).inputs[0]));
            }
            if let (Op::Select, Some(condition)) = (op, self.splat(x)) {
                return Ok(Some(if condition.is(1.0) { inputs[1] } else { inputs[2] }));
            }
        }
        Ok(None)
    }

    /// `x + 0`, `x - 0`, `x * 1`, `x / 1`, `x ^ 1`, `x ^ 2`.
    fn identity(&mut self, op: BinaryOp, a: NodeId, b: NodeId) -> Result<Option<NodeId>, IrError> {
        let (left, right) = (self.splat(a), self.splat(b));
        let is = |value: Option<Literal>, n: f64| value.is_some_and(|v| v.is(n));
        // Adding +0 turns -0 into +0, which no result but a division by it can tell; PyTorch's compilers do so too.
        Ok(match op {
            BinaryOp::Add | BinaryOp::Sub if is(right, 0.0) => Some(a),
            BinaryOp::Add if is(left, 0.0) => Some(b),
            BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow if is(right, 1.0) => Some(a),
            BinaryOp::Mul if is(left, 1.0) => Some(b),
            BinaryOp::Pow if is(right, 2.0) => Some(self.push(Op::Binary(BinaryOp::Mul), &[a, a])?),
            _ => None,
        })
    }

    /// The value of an elementwise operation on constants. Only what f64 arithmetic followed by one rounding gives exactly as
    /// the device would is folded: the four operations, negation and comparisons of f32 and f64.
    fn fold(&self, op: &Op, inputs: &[NodeId]) -> Option<Literal> {
        let values: SmallVec<[Literal; 3]> = inputs.iter().map(|&i| self.splat(i)).collect::<Option<_>>()?;
        let dtype = values.first()?.dtype();
        let at = |i: usize| values[i].as_f64();
        let float = dtype.is_float();
        let value = match op {
            Op::Unary(UnaryOp::Neg) if float => -at(0),
            Op::Binary(BinaryOp::Add) if float => at(0) + at(1),
            Op::Binary(BinaryOp::Sub) if float => at(0) - at(1),
            Op::Binary(BinaryOp::Mul) if float => at(0) * at(1),
            Op::Binary(BinaryOp::Div) if float && at(1) != 0.0 => at(0) / at(1),
            // Between the two integers a cast keeps the bits, which only agrees where the value exists in both.
            Op::Cast(to)
                if *to != DType::Bool && (float || Literal::from_f64(*to, at(0)).as_f64() == at(0)) =>
            {
                return Some(Literal::from_f64(*to, at(0)));
            }
            _ => return None,
        };
        value.is_finite().then(|| Literal::from_f64(dtype, value))
    }

    fn movement(&mut self, op: &Op, x: NodeId) -> Result<Option<NodeId>, IrError> {
        let node = self.node(x);
        let (from, _) = (node.shape.clone(), node.dtype);
        let (to, _) = op.infer(&[(&from, node.dtype)])?;
        let nothing = match op {
            Op::Reshape(_) | Op::Expand(_) => to == from,
            Op::Permute(perm) => perm.iter().copied().eq(0..perm.len()),
            Op::Slice { ranges } => ranges.iter().zip(from.iter()).all(|(r, &d)| *r == (0, d, 1)),
            Op::Pad { widths, .. } => widths.iter().all(|&w| w == (0, 0)),
            Op::Flip(axes) => axes.iter().all(|&a| from[a] == 1),
            _ => false,
        };
        if nothing {
            return Ok(Some(x));
        }
        if !matches!(op, Op::Pad { .. })
            && !matches!(node.op, Op::Const(_))
            && let Some(value) = self.splat(x)
        {
            // Already in the one form? Then this is the Expand of the Reshape of the constant itself.
            let canonical =
                matches!((op, &node.op), (Op::Expand(_), Op::Reshape(s)) if s.iter().all(|&d| d == 1));
            return if canonical { Ok(None) } else { self.push_splat(value, &to).map(Some) };
        }
        let inner = node.inputs.first().copied();
        match (op, &node.op, inner) {
            (Op::Reshape(to), Op::Reshape(_), Some(y)) => self.push(Op::Reshape(to.clone()), &[y]).map(Some),
            (Op::Expand(to), Op::Expand(_), Some(y)) => self.push(Op::Expand(to.clone()), &[y]).map(Some),
            (Op::Permute(outer), Op::Permute(first), Some(y)) => {
                let perm = outer.iter().map(|&a| first[a]).collect();
                self.push(Op::Permute(perm), &[y]).map(Some)
            }
            // Moving only extents of one does not move elements: a reshape, which collapses with others.
            (Op::Permute(perm), _, _) if perm.iter().filter(|&&a| from[a] != 1).is_sorted() => {
                self.push(Op::Reshape(to), &[x]).map(Some)
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wgrad_ir::CompareOp;

    use super::*;

    #[test]
    fn identities_constants_and_views_collapse() {
        let mut g = Graph::new();
        let x = g.push(Op::Input { index: 0, shape: [2, 3].into(), dtype: DType::F32 }, &[]).unwrap();
        let one = g.push(Op::Const(Literal::from_f64(DType::F32, 1.0)), &[]).unwrap();
        let one = g.push(Op::Reshape([1, 1].into()), &[one]).unwrap();
        let one = g.push(Op::Expand([2, 3].into()), &[one]).unwrap();
        let two = g.push(Op::Binary(BinaryOp::Add), &[one, one]).unwrap();
        let a = g.push(Op::Binary(BinaryOp::Mul), &[x, one]).unwrap();
        let b = g.push(Op::Binary(BinaryOp::Pow), &[a, two]).unwrap();
        let t = g.push(Op::Permute(SmallVec::from_slice(&[1, 0])), &[b]).unwrap();
        let t = g.push(Op::Permute(SmallVec::from_slice(&[1, 0])), &[t]).unwrap();
        let c = g.push(Op::Compare(CompareOp::Lt), &[t, x]).unwrap();
        g.set_outputs(vec![c]);
        expect![[r#"
            %0 = input 0 : f32[2, 3]
            %1 = mul %0 %0 : f32[2, 3]
            %2 = lt %1 %0 : bool[2, 3]
            return %2
        "#]]
        .assert_eq(&simplify(&g, true).unwrap().to_string());
    }

    #[test]
    fn two_random_streams_never_become_one() {
        let mut g = Graph::new();
        let k = g.push(Op::Scalar { index: 0, dtype: DType::U32 }, &[]).unwrap();
        let draw = |g: &mut Graph, stream| {
            let op = Op::Random { stream, kind: wgrad_ir::RandomKind::Uniform, shape: [4].into() };
            g.push(op, &[k, k, k]).unwrap()
        };
        let (a, b, c) = (draw(&mut g, 0), draw(&mut g, 1), draw(&mut g, 0));
        g.set_outputs(vec![a, b, c]);
        let s = simplify(&g, true).unwrap();
        assert_eq!(s.outputs()[0], s.outputs()[2]);
        assert_ne!(s.outputs()[0], s.outputs()[1]);
    }
}
