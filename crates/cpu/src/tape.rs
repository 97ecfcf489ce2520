//! Expressions, compiled to a list of instructions over registers of one block.

use std::collections::HashMap;

use smallvec::SmallVec;
use wgrad_ir::{BinaryOp, CompareOp, DType, Expr, ExprNode, IndexMap, RandomKind, UnaryOp};

use crate::walk::Path;

/// Elements that are evaluated at once. The registers of a kernel stay within the first- and second-level caches, and the cost
/// of choosing a loop is spread over enough elements.
pub(crate) const BLOCK: usize = 1024;

/// What one instruction computes; operands are instruction numbers.
#[derive(Debug)]
pub(crate) enum Code {
    Const(u64),
    Scalar(u32),
    Load { arg: u32, path: Path, fill: u64 },
    Index { path: Path },
    Random { stream: u32, kind: RandomKind, path: Path, key: [usize; 3] },
    Gather { table: u32, ids: u32, ids_dtype: DType, rows: usize, row_len: usize, path: Path },
    Unary(UnaryOp, usize),
    Binary(BinaryOp, usize, usize),
    Compare(CompareOp, usize, usize),
    Select(usize, usize, usize),
    Cast(usize),
}

/// Where the elements of an instruction go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Place {
    /// To scratch memory of the thread, at this byte.
    Register(usize),
    /// Straight to a result that is stored in the order of evaluation: argument and first element.
    Result(u32, usize),
}

/// One instruction.
#[derive(Debug)]
pub(crate) struct Instr {
    pub(crate) code: Code,
    /// Dtype of the value.
    pub(crate) dtype: DType,
    /// Dtype of the first operand.
    pub(crate) from: DType,
    /// Whether the value is the same at every index, so that it is computed once.
    pub(crate) uniform: bool,
    pub(crate) place: Place,
}

/// Compiled expressions.
#[derive(Debug)]
pub(crate) struct Tape {
    pub(crate) instrs: Vec<Instr>,
    /// Bytes of scratch memory that a thread needs.
    pub(crate) scratch: usize,
    /// Length of the blocks in which to evaluate.
    pub(crate) block: usize,
    /// Nanoseconds per element on one core, roughly: enough to decide on threads.
    pub(crate) cost: f64,
}

impl Tape {
    /// Compiles `exprs`. `path` turns maps into the order of evaluation; `direct` says which values go straight to a result;
    /// `wanted` are the values that must outlive their last use within the block.
    pub(crate) fn new(
        exprs: &[ExprNode],
        path: impl Fn(&IndexMap) -> Path,
        direct: &HashMap<usize, (u32, usize)>,
        wanted: &[usize],
    ) -> Tape {
        let mut instrs: Vec<Instr> = Vec::with_capacity(exprs.len());
        for node in exprs {
            let at = |id: &wgrad_ir::ExprId| id.index();
            let code = match &node.expr {
                Expr::Const(value) => Code::Const(value.bits()),
                Expr::Scalar(index) => Code::Scalar(*index),
                Expr::Load { arg, map, fill } => Code::Load { arg: *arg, path: path(map), fill: fill.bits() },
                Expr::Index { map } => Code::Index { path: path(map) },
                Expr::Random { stream, kind, map, key } => Code::Random {
                    stream: *stream,
                    kind: *kind,
                    path: path(map),
                    key: key.map(|k| k.index()),
                },
                Expr::Gather { table, ids, ids_dtype, rows, row_len, map } => Code::Gather {
                    table: *table,
                    ids: *ids,
                    ids_dtype: *ids_dtype,
                    rows: *rows,
                    row_len: *row_len,
                    path: path(map),
                },
                Expr::Unary(op, a) => Code::Unary(*op, at(a)),
                Expr::Binary(op, a, b) => Code::Binary(*op, at(a), at(b)),
                Expr::Compare(op, a, b) => Code::Compare(*op, at(a), at(b)),
                Expr::Select(c, a, b) => Code::Select(at(c), at(a), at(b)),
                Expr::Cast(a) => Code::Cast(at(a)),
            };

            let uniform = match &code {
                Code::Const(_) | Code::Scalar(_) => true,
                Code::Load { path, .. } | Code::Index { path } | Code::Random { path, .. } => {
                    path.splat().is_some()
                }
                // A gather may raise the status, which belongs to a place in the order of steps, not to a value.
                Code::Gather { .. } => false,
                _ => node.expr.operands().all(|o| instrs[o.index()].uniform),
            };
            let from = node.expr.operands().next().map_or(node.dtype, |o| instrs[o.index()].dtype);
            instrs.push(Instr { code, dtype: node.dtype, from, uniform, place: Place::Register(0) });
        }
        let block = block_length(&instrs);
        let scratch = allocate(&mut instrs, exprs, block, direct, wanted);
        let cost = instrs.iter().filter(|i| !i.uniform).map(cost).sum::<f64>() + 0.05;
        Tape { instrs, scratch, block, cost }
    }
}

/// Blocks end where most loads break anyway: at the ends of long inner axes (so that a load is a slice of its buffer, or one
/// value for the whole block), or after a whole number of short ones.
///
/// Transposed loads get blocks of 16 rows at least, which use up the cache lines they touch.
fn block_length(instrs: &[Instr]) -> usize {
    let paths = || {
        instrs.iter().filter(|i| !i.uniform).filter_map(|i| match &i.code {
            Code::Load { path, .. }
            | Code::Index { path }
            | Code::Random { path, .. }
            | Code::Gather { path, .. } => Some(path),
            _ => None,
        })
    };
    let transposed = paths().filter(|p| p.is_transposed()).map(|p| p.inner().0).max();
    if let Some(n) = transposed.filter(|&n| n * 16 <= 64 * BLOCK) {
        return n * (BLOCK / n).max(16);
    }
    match paths().filter(|p| p.contiguous().is_none()).map(|p| p.inner().0).min() {
        None | Some(0) => BLOCK,
        Some(n) if n > BLOCK => {
            // Equal parts of one row; uneven where the row does not divide.
            n.div_ceil(n.div_ceil(BLOCK))
        }
        Some(n) if n >= BLOCK / 2 => n,
        Some(n) => BLOCK / n * n,
    }
}

/// Gives every varying value a register, reusing those whose value has been used for the last time.
fn allocate(
    instrs: &mut [Instr],
    exprs: &[ExprNode],
    block: usize,
    direct: &HashMap<usize, (u32, usize)>,
    wanted: &[usize],
) -> usize {
    let mut last_use: Vec<usize> = (0..instrs.len()).collect();
    for (i, node) in exprs.iter().enumerate() {
        for operand in node.expr.operands() {
            last_use[operand.index()] = i;
        }
    }
    for &w in wanted {
        last_use[w] = usize::MAX;
    }
    let mut free: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut end = 0;
    for i in 0..instrs.len() {
        if !instrs[i].uniform {
            instrs[i].place = match direct.get(&i) {
                Some(&(arg, offset)) => Place::Result(arg, offset),
                None => {
                    let bytes = (block * instrs[i].dtype.host_bytes()).next_multiple_of(64);
                    Place::Register(free.get_mut(&bytes).and_then(Vec::pop).unwrap_or_else(|| {
                        end += bytes;
                        end - bytes
                    }))
                }
            };
        }
        // Operands are released after the result has its place: no instruction reads what it writes.
        let mut operands: SmallVec<[usize; 3]> = exprs[i].expr.operands().map(|o| o.index()).collect();
        operands.push(i);
        operands.sort_unstable();
        operands.dedup();
        for o in operands {
            if last_use[o] == i
                && !instrs[o].uniform
                && let Place::Register(at) = instrs[o].place
            {
                let bytes = (block * instrs[o].dtype.host_bytes()).next_multiple_of(64);
                free.entry(bytes).or_default().push(at);
            }
        }
    }
    end
}

/// Nanoseconds per element of one instruction.
fn cost(instr: &Instr) -> f64 {
    let wide = if instr.dtype == DType::F64 { 4.0 } else { 1.0 };
    let address = |path: &Path| match () {
        () if path.contiguous().is_some() => 0.1,
        () if path.is_chain() => 2.0,
        () if path.is_transposed() => 0.6,
        () if matches!(path.inner().1, 0 | 1) => 0.15 + 8.0 / path.inner().0 as f64,
        () => 1.0,
    };
    match &instr.code {
        Code::Const(_) | Code::Scalar(_) => 0.0,
        Code::Load { path, .. } | Code::Index { path } => address(path) * wide,
        Code::Random { path, .. } => 1.0 + address(path),
        Code::Gather { path, .. } => 0.3 + address(path),
        Code::Unary(op, _) => match op {
            UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Not | UnaryOp::Floor => 0.05,
            UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip => 0.2,
            _ if instr.dtype == DType::F64 => 10.0,
            _ => 0.4,
        },
        Code::Binary(BinaryOp::Pow | BinaryOp::Rem, ..) => 8.0,
        Code::Binary(BinaryOp::Div, ..) => 0.15 * wide,
        Code::Binary(..) | Code::Compare(..) | Code::Select(..) => 0.06 * wide,
        Code::Cast(_) => 0.1 * wide,
    }
}
