//! One kernel per realized node; virtual nodes become expressions inside of it.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{
    DType, Expr, ExprId, ExprNode, Graph, IndexMap, IrError, Kernel, Literal, MapKernel, MatMulKernel,
    NodeId, Op, Operand, ReduceKernel, Reduction, ScatterAddKernel, Shape, Store, View,
};

use crate::fuse::{contiguous_base, matmul_operand};

/// A kernel whose arguments are still nodes: memory comes later.
#[derive(Clone, Debug)]
pub struct NodeKernel {
    /// What is computed.
    pub kernel: Kernel,
    /// The realized node in each argument; `None` is scratch of `scratch_words` 32-bit words.
    pub args: Vec<Option<NodeId>>,
    /// Words of scratch, if an argument is scratch.
    pub scratch_words: usize,
    /// The primitives computed, in order, for labels.
    pub ops: Vec<&'static str>,
}

impl NodeKernel {
    /// The nodes that the kernel writes.
    pub fn written(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.kernel.writes().into_iter().filter_map(|a| self.args[a as usize])
    }

    /// The nodes that the kernel only reads.
    pub fn read(&self) -> impl Iterator<Item = NodeId> + '_ {
        let writes = self.kernel.writes();
        self.args
            .iter()
            .enumerate()
            .filter(move |(a, _)| !writes.contains(&(*a as u32)))
            .filter_map(|(_, n)| *n)
    }

    /// The label of the kernel's step: its first few primitives, joined by `+`.
    pub fn label(&self) -> String {
        const SHOWN: usize = 6;
        let mut label = self.ops.iter().take(SHOWN).copied().collect::<Vec<_>>().join("+");
        if self.ops.len() > SHOWN {
            label.push_str(&format!("+{}", self.ops.len() - SHOWN));
        }
        label
    }
}

/// The kernels of all realized nodes, in an order in which each reads only what earlier ones wrote.
///
/// # Errors
/// A contraction's operand cannot be read through strides, which fusion rules out.
pub fn lower(graph: &Graph, realized: &[bool]) -> Result<Vec<NodeKernel>, IrError> {
    let mut kernels = Vec::new();
    for id in graph.ids().filter(|id| realized[id.index()]) {
        let node = graph.node(id);
        match &node.op {
            Op::Input { .. } => {}
            Op::Reduce { op, axes } => {
                let from = &graph.node(node.inputs[0]).shape;
                let kept = (0..from.rank()).filter(|d| !axes.contains(d));
                let perm: SmallVec<[usize; 6]> = kept.chain(axes.iter().copied()).collect();
                let split = from.rank() - axes.len();
                let inner: Shape = perm[split..].iter().map(|&d| from[d]).collect();
                let outer: Shape = perm[..split].iter().map(|&d| from[d]).collect();
                let mut b = Builder::new(graph, realized, id);
                let root = b.movement(Op::Permute(perm));
                let value = b.expr(node.inputs[0], &[root]);
                b.ops.push(node.op.name());
                let outs = vec![Reduction { op: *op, value, arg: 0 }];
                let k = b.finish(|exprs| Kernel::Reduce(ReduceKernel { outer, inner, exprs, outs }));
                kernels.push(k);
            }
            Op::Dot => kernels.push(matmul(graph, id)?),
            Op::ScatterAdd { rows } => {
                let (ids, src) = (node.inputs[0], node.inputs[1]);
                let count = graph.node(ids).shape.elements();
                let row_len = node.shape.elements() / rows;
                let kernel = ScatterAddKernel {
                    rows: *rows,
                    row_len,
                    count,
                    dtype: node.dtype,
                    ids_dtype: graph.node(ids).dtype,
                };
                let operand = |n| Some(contiguous_base(graph, n));
                kernels.push(NodeKernel {
                    kernel: Kernel::ScatterAdd(kernel),
                    args: vec![Some(id), operand(ids), operand(src), None],
                    scratch_words: 2 * count,
                    ops: vec![node.op.name()],
                });
            }
            Op::Concat { axis } => {
                let mut at = 0;
                for &part in &node.inputs {
                    let space = graph.node(part).shape.clone();
                    let strides = node.shape.strides();
                    let view =
                        View { shape: space.clone(), offset: at * strides[*axis], strides, mask: None };
                    at += space[*axis] as i64;
                    let mut b = Builder::new(graph, realized, id);
                    let value = b.expr(part, &[]);
                    b.ops.push(node.op.name());
                    let k = b.finish(|exprs| {
                        Kernel::Map(MapKernel { space, exprs, stores: vec![Store { arg: 0, value, view }] })
                    });
                    kernels.push(k);
                }
            }
            _ => {
                let mut b = Builder::new(graph, realized, id);
                let value = b.node(id, &[]);
                let space = node.shape.clone();
                let view = View::contiguous(space.clone());
                kernels.push(b.finish(|exprs| {
                    Kernel::Map(MapKernel { space, exprs, stores: vec![Store { arg: 0, value, view }] })
                }));
            }
        }
    }
    Ok(kernels)
}

fn matmul(graph: &Graph, id: NodeId) -> Result<NodeKernel, IrError> {
    let node = graph.node(id);
    let operand = |n: NodeId| {
        let (base, map) = matmul_operand(graph, n);
        map.single().cloned().map(|view| (base, view)).ok_or_else(|| IrError::Inconsistent {
            what: "program",
            message: format!("operand %{} of a contraction has no strides", n.0),
        })
    };
    let ((a_base, a), (b_base, b)) = (operand(node.inputs[0])?, operand(node.inputs[1])?);
    let rank = node.shape.rank();
    let kernel = MatMulKernel {
        batch: node.shape[..rank - 2].into(),
        m: node.shape[rank - 2],
        n: node.shape[rank - 1],
        k: a.shape[rank - 1],
        dtype: node.dtype,
        a: Operand { arg: 1, view: a },
        b: Operand { arg: if a_base == b_base { 1 } else { 2 }, view: b },
        exprs: vec![ExprNode { expr: Expr::Product, dtype: node.dtype }],
        stores: vec![Store { arg: 0, value: ExprId(0), view: View::contiguous(node.shape.clone()) }],
    };
    let mut args = vec![Some(id), Some(a_base)];
    args.extend((a_base != b_base).then_some(Some(b_base)));
    Ok(NodeKernel { kernel: Kernel::MatMul(kernel), args, scratch_words: 0, ops: vec![node.op.name()] })
}

/// Builds the expressions of one kernel. A *path* lists the movements between a node and the kernel's iteration space, the
/// outermost first; ids beyond the graph's stand for movements made up here.
struct Builder<'g> {
    graph: &'g Graph,
    realized: &'g [bool],
    args: Vec<Option<NodeId>>,
    exprs: Vec<ExprNode>,
    known: FxHashMap<ExprNode, ExprId>,
    memo: FxHashMap<(NodeId, Path), ExprId>,
    extra: Vec<Op>,
    ops: Vec<&'static str>,
}

type Path = SmallVec<[u32; 6]>;

impl<'g> Builder<'g> {
    /// Argument 0 is the result, `out`.
    fn new(graph: &'g Graph, realized: &'g [bool], out: NodeId) -> Self {
        Builder {
            graph,
            realized,
            args: vec![Some(out)],
            exprs: Vec::new(),
            known: FxHashMap::default(),
            memo: FxHashMap::default(),
            extra: Vec::new(),
            ops: Vec::new(),
        }
    }

    fn finish(self, kernel: impl FnOnce(Vec<ExprNode>) -> Kernel) -> NodeKernel {
        let mut ops = self.ops;
        if ops.is_empty() {
            ops.push("copy");
        }
        NodeKernel { kernel: kernel(self.exprs), args: self.args, scratch_words: 0, ops }
    }

    fn movement(&mut self, op: Op) -> u32 {
        self.extra.push(op);
        (self.graph.nodes().len() + self.extra.len() - 1) as u32
    }

    fn path_op(&self, step: u32) -> &Op {
        let nodes = self.graph.nodes();
        nodes.get(step as usize).map_or_else(|| &self.extra[step as usize - nodes.len()], |n| &n.op)
    }

    fn push(&mut self, expr: Expr, dtype: DType) -> ExprId {
        let node = ExprNode { expr, dtype };
        if let Some(&id) = self.known.get(&node) {
            return id;
        }
        let id = ExprId(self.exprs.len() as u32);
        self.exprs.push(node.clone());
        self.known.insert(node, id);
        id
    }

    fn arg(&mut self, node: NodeId) -> u32 {
        let found = self.args.iter().skip(1).position(|a| *a == Some(node));
        found.map_or_else(
            || {
                self.args.push(Some(node));
                self.args.len() as u32 - 1
            },
            |p| p as u32 + 1,
        )
    }

    /// Where the elements of a leaf of the given shape lie, seen through the path; and the fill of a pad on it.
    fn map(&self, shape: &Shape, path: &[u32]) -> (IndexMap, Option<Literal>) {
        let mut map = IndexMap::contiguous(shape.clone());
        let mut fill = None;
        for &step in path.iter().rev() {
            let op = self.path_op(step);
            if let Op::Pad { fill: f, .. } = op {
                fill = Some(*f);
            }
            map = map.apply(op);
        }
        (map, fill)
    }

    /// The value of a node: loaded where it is realized, else computed.
    fn expr(&mut self, id: NodeId, path: &[u32]) -> ExprId {
        if !self.realized[id.index()] {
            return self.node(id, path);
        }
        let node = self.graph.node(id);
        let (map, fill) = self.map(&node.shape, path);
        let arg = self.arg(id);
        let fill = fill.unwrap_or(Literal::zero(node.dtype));
        self.push(Expr::Load { arg, map, fill }, node.dtype)
    }

    /// The value of a node, computed.
    fn node(&mut self, id: NodeId, path: &[u32]) -> ExprId {
        let key = (id, Path::from_slice(path));
        if let Some(&known) = self.memo.get(&key) {
            return known;
        }
        let graph = self.graph;
        let node = graph.node(id);
        if !node.op.is_movement() && !matches!(node.op, Op::Const(_) | Op::Scalar { .. }) {
            self.ops.push(node.op.name());
        }
        let expr = match &node.op {
            op if op.is_movement() => {
                let mut longer = Path::from_slice(path);
                longer.push(id.0);
                let value = self.expr(node.inputs[0], &longer);
                self.memo.insert(key, value);
                return value;
            }
            Op::Const(value) => Expr::Const(*value),
            Op::Scalar { index, .. } => Expr::Scalar(*index),
            Op::Iota { .. } => Expr::Index { map: self.map(&node.shape, path).0 },
            Op::Random { stream, kind, .. } => {
                let map = self.map(&node.shape, path).0;
                // The key is one for all elements: repeat its scalars over the kernel's space.
                let space = map.outer().shape.clone();
                let expand = self.movement(Op::Expand(space.clone()));
                let ones = self.movement(Op::Reshape(space.iter().map(|_| 1).collect()));
                let key = [0, 1, 2].map(|n| self.expr(node.inputs[n], &[expand, ones]));
                Expr::Random { stream: *stream, kind: *kind, map, key }
            }
            Op::Gather => {
                let (table, ids) = (node.inputs[0], node.inputs[1]);
                let table_shape = &graph.node(table).shape;
                let map = self.map(&node.shape, path).0;
                let rows = table_shape[0];
                let ids_dtype = graph.node(ids).dtype;
                let row_len = table_shape[1..].iter().product();
                let table = self.arg(contiguous_base(graph, table));
                let ids = self.arg(contiguous_base(graph, ids));
                Expr::Gather { table, ids, ids_dtype, rows, row_len, map }
            }
            Op::Unary(op) => Expr::Unary(*op, self.expr(node.inputs[0], path)),
            Op::Cast(_) => Expr::Cast(self.expr(node.inputs[0], path)),
            Op::Binary(op) => {
                Expr::Binary(*op, self.expr(node.inputs[0], path), self.expr(node.inputs[1], path))
            }
            Op::Compare(op) => {
                Expr::Compare(*op, self.expr(node.inputs[0], path), self.expr(node.inputs[1], path))
            }
            Op::Select => {
                let [c, a, b] = [0, 1, 2].map(|n| self.expr(node.inputs[n], path));
                Expr::Select(c, a, b)
            }
            // The identity here; also whatever is always realized, which `expr` loads before it comes here.
            _ => {
                let value = self.expr(node.inputs[0], path);
                self.memo.insert(key, value);
                return value;
            }
        };
        let value = self.push(expr, node.dtype);
        self.memo.insert(key, value);
        value
    }
}

/// Kernels behind `Arc`, equal ones shared.
pub fn share(kernels: impl IntoIterator<Item = Kernel>) -> Vec<Arc<Kernel>> {
    let mut known: FxHashMap<Kernel, Arc<Kernel>> = FxHashMap::default();
    kernels.into_iter().map(|k| known.entry(k.clone()).or_insert_with(|| Arc::new(k)).clone()).collect()
}
