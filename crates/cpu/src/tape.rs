//! Expressions, compiled to a list of instructions over registers of one block.

use std::collections::HashMap;

use smallvec::SmallVec;
use wgrad_ir::{
    BinaryOp, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Literal, RandomKind, ReduceOp, UnaryOp,
};

use crate::{
    cost::{block_length, cost},
    long_row::{self, LONG, Pass},
    pairs::{self, Pair},
    walk::Path,
};

/// Elements that are evaluated at once. The registers of a kernel stay within the first- and second-level caches, and the cost
/// of choosing a loop is spread over enough elements.
pub(crate) const BLOCK: usize = 1024;

/// What one instruction computes; operands are instruction numbers.
#[derive(Debug)]
pub(crate) enum Code {
    Const(u64),
    Scalar(u32),
    /// With `copy`, the elements are copied to a register even where the buffer has them in order: it is updated in place.
    Load {
        arg: u32,
        path: Path,
        fill: u64,
        copy: bool,
    },
    Index {
        path: Path,
    },
    Random {
        stream: u32,
        kind: RandomKind,
        path: Path,
        key: [usize; 3],
    },
    Gather {
        table: u32,
        ids: u32,
        ids_dtype: DType,
        rows: usize,
        row_len: usize,
        path: Path,
    },
    Unary(UnaryOp, usize),
    Binary(BinaryOp, usize, usize),
    /// Two operations of arithmetic at once.
    Pair(Pair, [usize; 3]),
    Compare(CompareOp, usize, usize),
    Select(usize, usize, usize),
    Cast(usize),
    /// The element of a matrix product, which the kernel provides.
    Product,
    /// From elements to one value per row.
    Row(ReduceOp, usize),
    /// From one value per row to elements.
    Spread(usize),
}

impl Code {
    /// Whether it forms addresses.
    pub(crate) fn is_leaf(&self) -> bool {
        matches!(self, Code::Load { .. } | Code::Index { .. } | Code::Random { .. } | Code::Gather { .. })
    }

    pub(crate) fn operands(&self) -> SmallVec<[usize; 3]> {
        match *self {
            Code::Const(_)
            | Code::Scalar(_)
            | Code::Load { .. }
            | Code::Index { .. }
            | Code::Gather { .. }
            | Code::Product => SmallVec::new(),
            Code::Random { key: operands, .. } | Code::Pair(_, operands) => operands.into_iter().collect(),
            Code::Unary(_, a) | Code::Cast(a) | Code::Row(_, a) | Code::Spread(a) => {
                [a].into_iter().collect()
            }
            Code::Binary(_, a, b) | Code::Compare(_, a, b) => [a, b].into_iter().collect(),
            Code::Select(a, b, c) => [a, b, c].into_iter().collect(),
        }
    }
}

/// Where the elements of an instruction go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Place {
    /// To scratch memory of the thread, at this byte.
    Register(usize),
    /// Straight to a result that is stored in the order of evaluation: argument and first element.
    Result(u32, usize),
}

/// Over what a value varies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Span {
    /// It is the same everywhere, so that it is computed once.
    Uniform,
    /// It is the same along a row.
    Rows,
    /// Over all elements.
    Elements,
}

/// One instruction.
#[derive(Debug)]
pub(crate) struct Instr {
    pub(crate) code: Code,
    /// Dtype of the value.
    pub(crate) dtype: DType,
    /// Dtype of the first operand.
    pub(crate) from: DType,
    pub(crate) span: Span,
    pub(crate) place: Place,
    /// In which pass over a long row it is evaluated.
    pub(crate) pass: usize,
    /// Whether later passes need it, so that its register holds the whole row.
    pub(crate) keeps: bool,
    /// Whether it is a load that has the same elements in every block that begins at a multiple of the tape's `repeat`; they stay
    /// in a register of their own.
    pub(crate) repeats: bool,
}

impl Instr {
    fn new(code: Code, dtype: DType, from: DType, span: Span) -> Instr {
        Instr { code, dtype, from, span, place: Place::Register(0), pass: 0, keeps: false, repeats: false }
    }

    pub(crate) fn is_uniform(&self) -> bool {
        self.span == Span::Uniform
    }
}

/// Compiled expressions.
#[derive(Debug)]
pub(crate) struct Tape {
    pub(crate) instrs: Vec<Instr>,
    /// The instruction of each expression.
    pub(crate) of_expr: Vec<usize>,
    /// Bytes of scratch memory that a thread needs.
    pub(crate) scratch: usize,
    /// Length of the blocks in which to evaluate.
    pub(crate) block: usize,
    /// After how many elements some loads begin anew, if there are such loads.
    pub(crate) repeat: Option<usize>,
    /// Length of a row, where the kernel has rows: blocks are whole rows then, or parts of one.
    pub(crate) row: usize,
    /// The passes over each row, where rows are long.
    pub(crate) passes: Vec<Pass>,
    /// Nanoseconds per element on one core, roughly: enough to decide on threads.
    pub(crate) cost: f64,
}

/// What a kernel does with the values of a tape, by expression.
#[derive(Default)]
pub(crate) struct Uses<'a> {
    /// Values that go straight to a result, in the order of evaluation: argument and first element.
    pub(crate) direct: HashMap<usize, (u32, usize)>,
    /// Values that must outlive their last use within the block.
    pub(crate) wanted: &'a [usize],
    /// Arguments that are updated in place.
    pub(crate) in_place: &'a [u32],
}

impl Tape {
    /// Compiles `exprs`. `path` turns maps into the order of evaluation.
    pub(crate) fn new(exprs: &[ExprNode], path: impl Fn(&IndexMap) -> Path, uses: &Uses<'_>) -> Tape {
        let pairs = pairs::find(exprs, uses.wanted, |_, _| true);
        let mut build = Build { pairs, ..Build::default() };
        for e in 0..exprs.len() {
            build.push(e, exprs, &path, Span::Elements, uses);
        }
        let block = block_length(&build.instrs);
        build.finish(block, 1, Vec::new(), uses)
    }

    /// Compiles the expressions of rows of `row` elements, evaluated in blocks of whole rows. `constant` says which are the same
    /// along a row, and so span the leading `outer` axes alone; `spread` are those that are wanted for all elements regardless.
    pub(crate) fn rows(
        exprs: &[ExprNode],
        (outer, row): (usize, usize),
        constant: &[bool],
        spread: &[usize],
        uses: &Uses<'_>,
    ) -> Tape {
        let pairs = pairs::find(exprs, uses.wanted, |a, b| constant[a] == constant[b]);
        let mut build = Build { pairs, ..Build::default() };
        for (e, &constant) in constant.iter().enumerate() {
            if constant {
                build.push(e, exprs, &|map| Path::leading(map, outer), Span::Rows, uses);
            } else {
                build.push(e, exprs, &Path::new, Span::Elements, uses);
            }
        }
        for &e in spread {
            build.spread(build.of_expr[e]);
        }
        if row > LONG {
            let wanted: Vec<usize> = uses.wanted.iter().map(|&w| build.of_expr[w]).collect();
            let spread = wanted.iter().filter_map(|w| build.spread.get(w).copied());
            let wanted: Vec<usize> = wanted.iter().copied().chain(spread).collect();
            let passes = long_row::passes(&mut build.instrs, &wanted);
            return build.finish(row.div_ceil(row.div_ceil(2 * BLOCK)), row, passes, uses);
        }
        // Several short rows make a block.
        let block = (BLOCK / row).max(1) * row;
        build.finish(block, row, Vec::new(), uses)
    }

    /// The instruction that has the value of an expression for all elements.
    pub(crate) fn elements_of(&self, expr: usize) -> usize {
        let at = self.of_expr[expr];
        let spread = |i: &Instr| matches!(i.code, Code::Spread(a) if a == at);
        self.instrs.iter().position(spread).unwrap_or(at)
    }
}

/// A tape in the making.
#[derive(Default)]
struct Build {
    instrs: Vec<Instr>,
    of_expr: Vec<usize>,
    /// The instruction that spreads another one's value along rows.
    spread: HashMap<usize, usize>,
    /// Expressions that another one may compute with itself.
    pairs: HashMap<usize, usize>,
}

/// In place of the instruction of an expression that another one computes.
const PAIRED: usize = usize::MAX;

impl Build {
    /// Compiles one expression, which varies over `span` at most.
    fn push(
        &mut self,
        e: usize,
        exprs: &[ExprNode],
        path: &impl Fn(&IndexMap) -> Path,
        span: Span,
        uses: &Uses<'_>,
    ) {
        let node = &exprs[e];
        let is_uniform = |o: ExprId| self.instrs.get(self.of_expr[o.index()]).is_some_and(Instr::is_uniform);
        let uniform = node.expr.operands().all(is_uniform);
        // What does not vary is computed once, alone.
        if !uniform && self.pairs.contains_key(&e) {
            self.of_expr.push(PAIRED);
            return;
        }
        let along = span == Span::Elements;
        if node.expr.operands().any(|o| self.of_expr[o.index()] == PAIRED) {
            let code = self.pair(e, exprs, along);
            self.of_expr.push(self.instrs.len());
            self.instrs.push(Instr::new(code, DType::F32, DType::F32, span));
            return;
        }
        let mut at = |id: &ExprId| self.operand(id.index(), along);
        let code = match &node.expr {
            Expr::Const(value) => Code::Const(value.bits()),
            Expr::Scalar(index) => Code::Scalar(*index),
            Expr::Load { arg, map, fill } => Code::Load {
                arg: *arg,
                path: path(map),
                fill: fill.bits(),
                copy: uses.in_place.contains(arg) && uses.wanted.contains(&e),
            },
            Expr::Index { map } => Code::Index { path: path(map) },
            Expr::Random { stream, kind, map, key } => Code::Random {
                stream: *stream,
                kind: *kind,
                path: path(map),
                key: key.map(|k| self.of_expr[k.index()]),
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
            Expr::Product => Code::Product,
            Expr::Row(op, a) => Code::Row(*op, at(a)),
        };
        let uniform = match &code {
            Code::Const(_) | Code::Scalar(_) => true,
            Code::Load { path, .. } | Code::Index { path } | Code::Random { path, .. } => {
                path.splat().is_some()
            }
            // A gather may raise the status, which belongs to a place in the order of steps, not to a value.
            Code::Gather { .. } | Code::Product | Code::Row(..) => false,
            _ => uniform,
        };
        let from = code.operands().first().map_or(node.dtype, |&o| self.instrs[o].dtype);
        let span = if uniform { Span::Uniform } else { span };
        self.of_expr.push(self.instrs.len());
        self.instrs.push(Instr::new(code, node.dtype, from, span));
    }

    /// The instruction of an operand.
    fn operand(&mut self, expr: usize, along: bool) -> usize {
        let from = self.of_expr[expr];
        if along { self.spread(from) } else { from }
    }

    /// An operation and the one that it has in its pair.
    fn pair(&mut self, e: usize, exprs: &[ExprNode], along: bool) -> Code {
        let split = |e: usize| pairs::arithmetic(&exprs[e]).unwrap_or((BinaryOp::Mul, e, None));
        let (second, a, b) = split(e);
        let swapped = self.of_expr[a] != PAIRED;
        let (inner, c) = if swapped { (b.unwrap_or(a), Some(a)) } else { (a, b) };
        let (first, a, b) = split(inner);
        let operands = [Some(a), b, c].map(|operand| match operand {
            Some(expr) => self.operand(expr, along),
            None => {
                let code = Code::Const(Literal::from_f64(DType::F32, -1.0).bits());
                self.instrs.push(Instr::new(code, DType::F32, DType::F32, Span::Uniform));
                self.instrs.len() - 1
            }
        });
        Code::Pair(Pair { first, second, swapped }, operands)
    }

    /// The elements of a value that is the same along rows.
    fn spread(&mut self, from: usize) -> usize {
        let dtype = self.instrs[from].dtype;
        if self.instrs[from].span != Span::Rows {
            return from;
        }
        *self.spread.entry(from).or_insert_with(|| {
            self.instrs.push(Instr::new(Code::Spread(from), dtype, dtype, Span::Elements));
            self.instrs.len() - 1
        })
    }

    fn finish(mut self, block: usize, row: usize, passes: Vec<Pass>, uses: &Uses<'_>) -> Tape {
        let repeat = if passes.is_empty() { self.repeat(block) } else { None };
        let scratch = self.allocate(block, row, uses);
        let weight = |i: &Instr| match i.span {
            Span::Uniform => 0.0,
            Span::Rows => 1.0 / row as f64,
            Span::Elements => 1.0,
        };
        let cost = self.instrs.iter().map(|i| cost(i) * weight(i)).sum::<f64>() + 0.05;
        Tape { instrs: self.instrs, of_expr: self.of_expr, scratch, block, repeat, row, passes, cost }
    }

    /// Marks the loads that begin anew within each block, after as many elements as the first of them.
    fn repeat(&mut self, block: usize) -> Option<usize> {
        let mut repeat = None;
        for instr in self.instrs.iter_mut().filter(|i| i.span == Span::Elements) {
            if let Code::Load { path, copy: false, .. } = &instr.code
                && let Some(n) = path.repeats().filter(|&n| n < block && block.is_multiple_of(n))
                && *repeat.get_or_insert(n) == n
            {
                instr.repeats = true;
            }
        }
        repeat
    }

    /// Gives every varying value a register, reusing those whose value has been used for the last time.
    fn allocate(&mut self, block: usize, row: usize, uses: &Uses<'_>) -> usize {
        let instrs = &mut self.instrs;
        // The order of evaluation, and where in it each value is used last.
        let mut order: Vec<usize> = (0..instrs.len()).collect();
        order.sort_by_key(|&i| (instrs[i].pass, row > LONG && instrs[i].span == Span::Elements));
        let mut last_use = vec![0; instrs.len()];
        for (at, &i) in order.iter().enumerate() {
            last_use[i] = last_use[i].max(at);
            for operand in instrs[i].code.operands() {
                last_use[operand] = last_use[operand].max(at);
            }
        }
        for (i, instr) in instrs.iter().enumerate() {
            if instr.keeps || instr.repeats {
                last_use[i] = usize::MAX;
            }
        }
        for &w in uses.wanted {
            last_use[self.of_expr[w]] = usize::MAX;
            if let Some(&spread) = self.spread.get(&self.of_expr[w]) {
                last_use[spread] = usize::MAX;
            }
        }
        let direct: HashMap<usize, (u32, usize)> =
            uses.direct.iter().map(|(&e, &to)| (self.of_expr[e], to)).collect();
        let size = |instr: &Instr| {
            let elements = match instr.span {
                Span::Rows => block.div_ceil(row),
                _ if instr.keeps => row,
                _ => block,
            };
            (elements * instr.dtype.host_bytes()).next_multiple_of(64)
        };
        let mut free: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut end = 0;
        for (at, i) in order.into_iter().enumerate() {
            if !instrs[i].is_uniform() && !matches!(instrs[i].code, Code::Product) {
                instrs[i].place = match direct.get(&i) {
                    Some(&(arg, offset)) if instrs[i].span == Span::Elements => Place::Result(arg, offset),
                    _ => {
                        let bytes = size(&instrs[i]);
                        // What is kept must not lie where an earlier value of the next block comes again.
                        let kept = instrs[i].keeps || instrs[i].repeats;
                        let used = if kept { None } else { free.get_mut(&bytes).and_then(Vec::pop) };
                        Place::Register(used.unwrap_or_else(|| {
                            end += bytes;
                            end - bytes
                        }))
                    }
                };
            }
            // Operands are released after the result has its place: no instruction reads what it writes.
            let mut operands = instrs[i].code.operands();
            operands.push(i);
            operands.sort_unstable();
            operands.dedup();
            for o in operands {
                if last_use[o] == at
                    && !instrs[o].is_uniform()
                    && !matches!(instrs[o].code, Code::Product)
                    && let Place::Register(register) = instrs[o].place
                {
                    free.entry(size(&instrs[o])).or_default().push(register);
                }
            }
        }
        end
    }
}
