//! One kernel per realized node; virtual nodes become expressions inside of it.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use wgrad_ir::{
    ConvKernel, ConvSpec, DType, Expr, ExprId, ExprNode, Graph, IndexMap, IrError, Kernel, Literal,
    MapKernel, MatMulKernel, NodeId, Op, Operand, ReduceKernel, Reduction, ScatterAddKernel, Shape,
    SortKernel, Store, View,
};

use crate::layout::Layout;

mod attention;
mod cumulate;
mod loops;

pub use loops::{LoopPrograms, LoopSteps};

/// An argument before memory is planned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeArg {
    /// A realized node.
    Node(NodeId),
    /// Scratch of so many 32-bit words.
    Scratch(usize),
}

impl NodeArg {
    /// The node, if it is one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            NodeArg::Node(node) => Some(node),
            NodeArg::Scratch(_) => None,
        }
    }
}

/// What a [`NodeKernel`] computes.
#[derive(Clone, Debug)]
// Kernels are many and loops are few: a box around each kernel would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum Work {
    /// One kernel.
    Kernel(Kernel),
    /// The kernels of all iterations of a loop.
    Loop(Box<LoopSteps>),
}

impl Work {
    /// The kernel, if it is one.
    pub fn kernel(&self) -> Option<&Kernel> {
        match self {
            Work::Kernel(kernel) => Some(kernel),
            Work::Loop(_) => None,
        }
    }

    /// Which arguments are written, ascending.
    pub fn writes(&self) -> Vec<u32> {
        match self {
            Work::Kernel(kernel) => kernel.writes(),
            Work::Loop(steps) => steps.writes(),
        }
    }
}

impl From<Kernel> for Work {
    fn from(kernel: Kernel) -> Self {
        Work::Kernel(kernel)
    }
}

/// A kernel whose arguments are still nodes: memory comes later.
#[derive(Clone, Debug)]
pub struct NodeKernel {
    /// What is computed.
    pub work: Work,
    /// What stands behind each argument.
    pub args: Vec<NodeArg>,
    /// The primitives computed, in order, for labels.
    pub ops: Vec<&'static str>,
}

impl NodeKernel {
    /// The nodes that the kernel writes.
    pub fn written(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.work.writes().into_iter().filter_map(|a| self.args[a as usize].node())
    }

    /// The nodes that the kernel only reads.
    pub fn read(&self) -> impl Iterator<Item = NodeId> + '_ {
        let writes = self.work.writes();
        let read = self.args.iter().enumerate().filter(move |(a, _)| !writes.contains(&(*a as u32)));
        read.filter_map(|(_, arg)| arg.node())
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
pub fn lower(layout: &Layout<'_>, loops: &LoopPrograms) -> Result<Vec<NodeKernel>, IrError> {
    let graph = layout.graph;
    let mut kernels = Vec::new();
    for id in graph.ids().filter(|id| layout.realized[id.index()]) {
        let node = graph.node(id);
        // A range of an input is there already; the parts of a `Concat` are computed.
        if layout.is_given(id) {
            continue;
        }
        match &node.op {
            Op::Input { .. } => {}
            Op::Reduce { op, axes } => {
                let from = &graph.node(node.inputs[0]).shape;
                let kept = (0..from.rank()).filter(|d| !axes.contains(d));
                let perm: SmallVec<[usize; 6]> = kept.chain(axes.iter().copied()).collect();
                let split = from.rank() - axes.len();
                let inner: Shape = perm[split..].iter().map(|&d| from[d]).collect();
                let outer: Shape = perm[..split].iter().map(|&d| from[d]).collect();
                let mut b = Builder::new(layout, id);
                let root = b.movement(Op::Permute(perm));
                let value = b.expr(node.inputs[0], &[root]);
                b.ops.push(node.op.name());
                let outs = vec![Reduction { op: *op, value, arg: 0 }];
                let k = b.finish(|exprs| Kernel::Reduce(ReduceKernel { outer, inner, exprs, outs }));
                kernels.push(k);
            }
            Op::Dot => kernels.push(matmul(layout, id)?),
            Op::Conv(spec) => kernels.push(conv(layout, spec, id)?),
            Op::Call { function, output } => {
                // One kernel computes all outputs, where the first of them stands.
                let same = |n: &NodeId| {
                    let other = graph.node(*n);
                    matches!(&other.op, Op::Call { function: f, .. } if f == function)
                        && other.inputs == node.inputs
                };
                let first = graph.ids().find(same) == Some(id);
                let _ = output;
                if first {
                    let nodes: Vec<NodeId> = graph.ids().filter(same).collect();
                    kernels.push(attention::lower(layout, function, &nodes)?);
                }
            }
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
                let operand = |n| NodeArg::Node(layout.contiguous_base(n));
                kernels.push(NodeKernel {
                    work: Kernel::ScatterAdd(kernel).into(),
                    args: vec![NodeArg::Node(id), operand(ids), operand(src), NodeArg::Scratch(2 * count)],
                    ops: vec![node.op.name()],
                });
            }
            Op::Cumulate { op, axis } => kernels.push(cumulate::lower(layout, id, *op, *axis)?),
            Op::Loop { body, .. } => {
                // One list of steps computes all outputs, where the first of them stands.
                let same = |n: &NodeId| {
                    let other = graph.node(*n);
                    matches!(&other.op, Op::Loop { body: b, .. } if Arc::ptr_eq(b, body))
                        && other.inputs == node.inputs
                };
                if graph.ids().find(same) == Some(id) {
                    let nodes: Vec<NodeId> = graph.ids().filter(same).collect();
                    kernels.push(loops.lower(layout, body, &nodes)?);
                }
            }
            Op::Sort { descending } => {
                let len = node.shape.last().copied().unwrap_or(1);
                let source = node.inputs[0];
                let kernel = SortKernel {
                    rows: node.shape.elements().checked_div(len).unwrap_or(0),
                    len,
                    dtype: graph.node(source).dtype,
                    descending: *descending,
                };
                kernels.push(NodeKernel {
                    work: Kernel::Sort(kernel).into(),
                    args: vec![
                        NodeArg::Node(id),
                        NodeArg::Node(layout.contiguous_base(source)),
                        NodeArg::Scratch(node.shape.elements()),
                    ],
                    ops: vec![node.op.name()],
                });
            }
            Op::Concat { axis } => {
                let mut at = 0;
                let mut placed = Vec::new();
                for &part in &node.inputs {
                    let space = graph.node(part).shape.clone();
                    let strides = node.shape.strides();
                    let view =
                        View { shape: space.clone(), offset: at * strides[*axis], strides, mask: None };
                    at += space[*axis] as i64;
                    let base = layout.contiguous_base(part);
                    let in_place = match (&layout.parts[base.index()], &layout.scattered[base.index()]) {
                        (Some(p), _) => p.owner == id,
                        (None, Some((owner, _))) => *owner == id,
                        (None, None) => false,
                    };
                    // Only once: an operand that occurs twice is copied to its second place.
                    if in_place && !placed.contains(&base) {
                        placed.push(base);
                        continue;
                    }
                    let mut b = Builder::new(layout, id);
                    let value = b.expr(part, &[]);
                    b.ops.push(node.op.name());
                    let k = b.finish(|exprs| {
                        Kernel::Map(MapKernel { space, exprs, stores: vec![Store { arg: 0, value, view }] })
                    });
                    kernels.push(k);
                }
            }
            _ => {
                let (target, view) = layout.target(id);
                let mut b = Builder::new(layout, target);
                let value = b.node(id, &[]);
                let space = node.shape.clone();
                kernels.push(b.finish(|exprs| {
                    Kernel::Map(MapKernel { space, exprs, stores: vec![Store { arg: 0, value, view }] })
                }));
            }
        }
    }
    Ok(kernels)
}

/// Reads `id` through strides.
fn operand(layout: &Layout<'_>, id: NodeId) -> Result<(NodeId, View), IrError> {
    strided(id, layout.operand(id))
}

/// The one view of an operand.
fn strided(id: NodeId, (base, map): (NodeId, IndexMap)) -> Result<(NodeId, View), IrError> {
    map.single().cloned().map(|view| (base, view)).ok_or_else(|| IrError::Inconsistent {
        what: "program",
        message: format!("operand %{} has no strides", id.0),
    })
}

/// The number of the argument that stands for `node`, which is added if it is not there.
fn place(args: &mut Vec<NodeArg>, node: NodeId) -> u32 {
    let found = args.iter().position(|a| a.node() == Some(node));
    found.unwrap_or_else(|| {
        args.push(NodeArg::Node(node));
        args.len() - 1
    }) as u32
}

fn matmul(layout: &Layout<'_>, id: NodeId) -> Result<NodeKernel, IrError> {
    let node = layout.graph.node(id);
    let read = |id: NodeId| strided(id, layout.product_operand(id));
    let ((a_base, a), (b_base, b)) = (read(node.inputs[0])?, read(node.inputs[1])?);
    let dtype_of = |id: NodeId| layout.graph.node(id).dtype;
    let rank = node.shape.rank();
    let (target, view) = layout.target(id);
    let mut args = vec![NodeArg::Node(target)];
    let kernel = MatMulKernel {
        column_sums: None,
        split: None,
        batch: node.shape[..rank - 2].into(),
        m: node.shape[rank - 2],
        n: node.shape[rank - 1],
        k: a.shape[rank - 1],
        dtype: node.dtype,
        operands: [dtype_of(a_base), dtype_of(b_base)],
        a: Operand { arg: place(&mut args, a_base), view: a },
        b: Operand { arg: place(&mut args, b_base), view: b },
        exprs: vec![ExprNode { expr: Expr::Product, dtype: node.dtype }],
        stores: vec![Store { arg: 0, value: ExprId(0), view }],
    };
    Ok(NodeKernel { work: Kernel::MatMul(kernel).into(), args, ops: vec![node.op.name()] })
}

fn conv(layout: &Layout<'_>, spec: &ConvSpec, id: NodeId) -> Result<NodeKernel, IrError> {
    let node = layout.graph.node(id);
    let read = |id: NodeId| strided(id, layout.product_operand(id));
    let ((x_base, x), (w_base, w)) = (read(node.inputs[0])?, read(node.inputs[1])?);
    let dtype_of = |id: NodeId| layout.graph.node(id).dtype;
    let (target, view) = layout.target(id);
    let mut args = vec![NodeArg::Node(target)];
    let kernel = ConvKernel {
        spec: spec.clone(),
        dtype: node.dtype,
        operands: [dtype_of(x_base), dtype_of(w_base)],
        x: Operand { arg: place(&mut args, x_base), view: x },
        w: Operand { arg: place(&mut args, w_base), view: w },
        exprs: vec![ExprNode { expr: Expr::Product, dtype: node.dtype }],
        stores: vec![Store { arg: 0, value: ExprId(0), view }],
    };
    Ok(NodeKernel { work: Kernel::Conv(kernel).into(), args, ops: vec![node.op.name()] })
}

/// Builds the expressions of one kernel. A *path* lists the movements between a node and the kernel's iteration space, the
/// outermost first; ids beyond the graph's stand for movements made up here.
struct Builder<'g> {
    layout: &'g Layout<'g>,
    graph: &'g Graph,
    args: Vec<NodeArg>,
    exprs: Vec<ExprNode>,
    known: FxHashMap<ExprNode, ExprId>,
    memo: FxHashMap<(NodeId, Path), ExprId>,
    extra: Vec<Op>,
    ops: Vec<&'static str>,
}

type Path = SmallVec<[u32; 6]>;

impl<'g> Builder<'g> {
    /// Argument 0 is the result, `out`.
    fn new(layout: &'g Layout<'g>, out: NodeId) -> Self {
        Builder {
            layout,
            graph: layout.graph,
            args: vec![NodeArg::Node(out)],
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
        NodeKernel { work: kernel(self.exprs).into(), args: self.args, ops }
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
        let found = self.args.iter().skip(1).position(|a| a.node() == Some(node));
        found.map_or_else(
            || {
                self.args.push(NodeArg::Node(node));
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
        if !self.layout.realized[id.index()] {
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
                let table = self.arg(self.layout.contiguous_base(table));
                let ids = self.arg(self.layout.contiguous_base(ids));
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
#[derive(Default, Debug)]
pub struct Shared(FxHashMap<Kernel, Arc<Kernel>>);

impl Shared {
    /// The shared copy of a kernel.
    pub fn get(&mut self, kernel: &Kernel) -> Arc<Kernel> {
        match self.0.get(kernel) {
            Some(known) => known.clone(),
            None => self.0.entry(kernel.clone()).or_insert_with(|| Arc::new(kernel.clone())).clone(),
        }
    }
}
