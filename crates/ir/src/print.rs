//! Readable text for graphs and programs; snapshot tests hold it.

use std::fmt::{self, Write};

use crate::{Expr, ExprNode, Graph, IndexMap, Kernel, Op, OutputSource, Program, View};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in self.ids() {
            let node = self.node(id);
            write!(f, "%{} = {}", id.0, node.op.name())?;
            match &node.op {
                Op::Input { index, .. } | Op::Scalar { index, .. } => write!(f, " {index}")?,
                Op::Const(value) => write!(f, " {value}")?,
                Op::Random { stream, kind, .. } => write!(f, " stream={stream} {kind:?}")?,
                Op::Permute(perm) => write!(f, " {perm:?}")?,
                Op::Slice { ranges } => write!(f, " {ranges:?}")?,
                Op::Pad { widths, fill } => write!(f, " {widths:?} fill={fill}")?,
                Op::Flip(axes) | Op::Reduce { axes, .. } => write!(f, " {axes:?}")?,
                Op::Concat { axis } => write!(f, " axis={axis}")?,
                _ => {}
            }
            for input in &node.inputs {
                write!(f, " %{}", input.0)?;
            }
            writeln!(f, " : {}{}", node.dtype, node.shape)?;
        }
        f.write_str("return")?;
        for id in self.outputs() {
            write!(f, " %{}", id.0)?;
        }
        f.write_char('\n')
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_contiguous() {
            return write!(f, "{}", self.shape);
        }
        write!(f, "{}:{:?}", self.shape, self.strides.as_slice())?;
        if self.offset != 0 {
            write!(f, "{:+}", self.offset)?;
        }
        if let Some(mask) = &self.mask {
            write!(f, " if {:?}", mask.as_slice())?;
        }
        Ok(())
    }
}

impl fmt::Display for IndexMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, view) in self.views().iter().enumerate() {
            if i > 0 {
                f.write_str(" <- ")?;
            }
            write!(f, "{view}")?;
        }
        Ok(())
    }
}

fn write_exprs(f: &mut fmt::Formatter<'_>, exprs: &[ExprNode]) -> fmt::Result {
    for (i, ExprNode { expr, dtype }) in exprs.iter().enumerate() {
        write!(f, "    v{i}: {dtype} = ")?;
        match expr {
            Expr::Const(value) => write!(f, "{value}")?,
            Expr::Scalar(index) => write!(f, "scalar {index}")?,
            Expr::Load { arg, map, fill } => {
                write!(f, "load a{arg} {map}")?;
                if map.is_masked() {
                    write!(f, " else {fill}")?;
                }
            }
            Expr::Index { map } => write!(f, "index {map}")?,
            Expr::Random { stream, kind, map, .. } => write!(f, "random stream={stream} {kind:?} {map}")?,
            Expr::Gather { table, ids, rows, row_len, map, .. } => {
                write!(f, "gather a{table}[{rows}, {row_len}] by a{ids} {map}")?;
            }
            Expr::Unary(op, _) => f.write_str(op.name())?,
            Expr::Binary(op, ..) => f.write_str(op.name())?,
            Expr::Compare(op, ..) => f.write_str(op.name())?,
            Expr::Select(..) => f.write_str("select")?,
            Expr::Cast(_) => f.write_str("cast")?,
        }
        for operand in expr.operands() {
            write!(f, " v{}", operand.0)?;
        }
        f.write_char('\n')?;
    }
    Ok(())
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Map(k) => {
                writeln!(f, "map {}", k.space)?;
                write_exprs(f, &k.exprs)?;
                for store in &k.stores {
                    writeln!(f, "    store a{} {} = v{}", store.arg, store.view, store.value.0)?;
                }
                Ok(())
            }
            Kernel::Reduce(k) => {
                writeln!(f, "{} {} over {}", k.op.name(), k.outer, k.inner)?;
                write_exprs(f, &k.exprs)?;
                writeln!(f, "    store a{} = v{}", k.out, k.value.0)
            }
            Kernel::MatMul(k) => writeln!(
                f,
                "matmul {} batch {} m={} n={} k={} a={} b={}",
                k.dtype, k.batch, k.m, k.n, k.k, k.a, k.b
            ),
            Kernel::ScatterAdd(k) => {
                writeln!(f, "scatter_add {} [{}, {}] from {}", k.dtype, k.rows, k.row_len, k.count)
            }
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, spec) in self.inputs.iter().enumerate() {
            writeln!(f, "input {i}: {}{}", spec.dtype, spec.shape)?;
        }
        for (i, dtype) in self.scalars.iter().enumerate() {
            writeln!(f, "scalar {i}: {dtype}")?;
        }
        for (i, bytes) in self.temps.iter().enumerate() {
            writeln!(f, "temp {i}: {bytes} bytes")?;
        }
        for step in &self.steps {
            write!(f, "{:?} {}: {}", step.args, step.label, step.kernel)?;
        }
        for (i, out) in self.outputs.iter().enumerate() {
            let source = match out.source {
                OutputSource::Result(r) => format!("result {r}"),
                OutputSource::Input(r) => format!("input {r}"),
            };
            writeln!(f, "output {i}: {}{} = {source}", out.dtype, out.shape)?;
        }
        Ok(())
    }
}
