//! Readable text for graphs and programs; snapshot tests hold it.

use std::fmt::{self, Write};

use crate::{
    Arg, AttentionDims, ConvAxis, ConvKernel, ConvSpec, DType, Expr, ExprNode, Graph, IndexMap, Kernel,
    LoopOutput, MatMulKernel, Op, Operand, OutputSource, Program, Store, View,
};

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
                Op::Concat { axis } | Op::Cumulate { axis, .. } => write!(f, " axis={axis}")?,
                Op::Loop { body, output } => {
                    let order = if body.reverse { " backwards" } else { "" };
                    write!(f, " {}{order}", body.length)?;
                    match output {
                        LoopOutput::Final(n) => write!(f, " final {n}")?,
                        LoopOutput::Each(id) => write!(f, " each %{}", id.0)?,
                    }
                }
                Op::Window { axis, size, step, dilation } => {
                    write!(f, " axis={axis} size={size} step={step} dilation={dilation}")?;
                }
                Op::Conv(spec) => write!(f, "{spec}")?,
                Op::Call { function, output } => write!(f, " {}.{output}", function.name)?,
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

impl fmt::Display for ConvAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConvAxis { stride, dilation, spread, before, after } = self;
        write!(f, "s{stride} d{dilation} p{before},{after}")?;
        if *spread != 1 { write!(f, " /{spread}") } else { Ok(()) }
    }
}

impl fmt::Display for ConvSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for axis in &self.axes {
            write!(f, " ({axis})")?;
        }
        if self.by_group { f.write_str(" by group") } else { Ok(()) }
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
            Expr::Product => f.write_str("product")?,
            Expr::Row(op, _) => write!(f, "row {}", op.name())?,
        }
        for operand in expr.operands() {
            write!(f, " v{}", operand.0)?;
        }
        f.write_char('\n')?;
    }
    Ok(())
}

/// An operand of a product, with its dtype in memory where that is another one.
fn write_operand(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    operand: &Operand,
    kept: DType,
    dtype: DType,
) -> fmt::Result {
    write!(f, " {name}={operand}")?;
    if kept == dtype { Ok(()) } else { write!(f, " ({kept})") }
}

fn write_stores(f: &mut fmt::Formatter<'_>, stores: &[Store]) -> fmt::Result {
    for store in stores {
        writeln!(f, "    store a{} {} = v{}", store.arg, store.view, store.value.0)?;
    }
    Ok(())
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{} {}", self.arg, self.view)
    }
}

impl fmt::Display for AttentionDims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionDims { batch, heads, kv_heads, queries, keys, width, spec } = self;
        write!(f, "b={batch} h={heads}/{kv_heads} q={queries} k={keys} d={width} scale={}", spec.scale)?;
        if spec.causal {
            f.write_str(" causal")?;
        }
        match spec.window {
            Some(window) => write!(f, " window={window}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Map(k) => {
                writeln!(f, "map {}", k.space)?;
                write_exprs(f, &k.exprs)?;
                write_stores(f, &k.stores)
            }
            Kernel::Row(k) => {
                writeln!(f, "row {} of {}", k.outer, k.inner)?;
                write_exprs(f, &k.exprs)?;
                write_stores(f, &k.stores)
            }
            Kernel::Reduce(k) => {
                writeln!(f, "reduce {} over {}", k.outer, k.inner)?;
                write_exprs(f, &k.exprs)?;
                for out in &k.outs {
                    writeln!(f, "    store a{} = {} v{}", out.arg, out.op.name(), out.value.0)?;
                }
                Ok(())
            }
            Kernel::MatMul(k) => {
                let MatMulKernel { batch, m, n, k: length, dtype, a, b, .. } = k;
                write!(f, "matmul {dtype} batch {batch} m={m} n={n} k={length}")?;
                write_operand(f, "a", a, k.operands[0], *dtype)?;
                write_operand(f, "b", b, k.operands[1], *dtype)?;
                f.write_char('\n')?;
                write_exprs(f, &k.exprs)?;
                write_stores(f, &k.stores)?;
                if let Some(arg) = k.column_sums {
                    writeln!(f, "    store a{arg} = column sums of b")?;
                }
                k.split.map_or(Ok(()), |s| writeln!(f, "    in {} parts, scratch a{}", s.parts, s.products))
            }
            Kernel::Conv(k) => {
                let ConvKernel { spec, dtype, x, w, .. } = k;
                write!(f, "conv {dtype}{spec}")?;
                write_operand(f, "x", x, k.operands[0], *dtype)?;
                write_operand(f, "w", w, k.operands[1], *dtype)?;
                writeln!(f, " to {}", k.result())?;
                write_exprs(f, &k.exprs)?;
                write_stores(f, &k.stores)
            }
            Kernel::ScatterAdd(k) => {
                writeln!(f, "scatter_add {} [{}, {}] from {}", k.dtype, k.rows, k.row_len, k.count)
            }
            Kernel::Cumulate(k) => {
                write!(f, "{} {} {} of {}", k.op.name(), k.dtype, k.lines, k.len)?;
                if let Some(factors) = &k.factors {
                    write!(f, " factors={factors}")?;
                }
                writeln!(f, " terms={} store {}", k.terms, k.out)
            }
            Kernel::Sort(k) => {
                let order = if k.descending { "descending" } else { "ascending" };
                writeln!(f, "sort {} [{}, {}] {order}", k.dtype, k.rows, k.len)
            }
            Kernel::Attention(k) => {
                writeln!(f, "attention {} q={} k={} v={} mask={:?}", k.dims, k.q, k.k, k.v, k.mask)?;
                writeln!(f, "    store {}, lse a{}", k.out, k.lse)
            }
            Kernel::AttentionGrad(k) => {
                writeln!(f, "attention_grad {} q={} k={} v={} mask={:?}", k.dims, k.q, k.k, k.v, k.mask)?;
                writeln!(f, "    out={} lse=a{} grad_out={} delta=a{}", k.out, k.lse, k.grad_out, k.delta)?;
                writeln!(f, "    store {}, {}, {}", k.grad_q, k.grad_k, k.grad_v)
            }
        }
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.buffer)?;
        if self.offset != 0 { write!(f, "+{}", self.offset) } else { Ok(()) }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, spec) in self.inputs.iter().enumerate() {
            let updated = if self.updates.contains(&(i as u32)) { ", updated" } else { "" };
            writeln!(f, "input {i}: {}{}{updated}", spec.dtype, spec.shape)?;
        }
        for (i, dtype) in self.scalars.iter().enumerate() {
            writeln!(f, "scalar {i}: {dtype}")?;
        }
        for (i, bytes) in self.temps.iter().enumerate() {
            writeln!(f, "temp {i}: {bytes} bytes")?;
        }
        for step in &self.steps {
            f.write_char('[')?;
            for (i, arg) in step.args.iter().enumerate() {
                write!(f, "{}{arg}", if i > 0 { ", " } else { "" })?;
            }
            write!(f, "] {}: {}", step.label, step.kernel)?;
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
