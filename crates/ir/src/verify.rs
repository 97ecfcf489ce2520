//! The rules that every pass must keep.

use std::sync::Arc;

use crate::{
    Arg, AttentionDims, BufferRef, CumulateOp, DType, Expr, ExprNode, Graph, IndexMap, IrError, Kernel,
    MatMulKernel, Op, Operand, OutputSource, Program, Shape, SplitK, Store, View,
};

fn broken<T>(what: &'static str, message: String) -> Result<T, IrError> {
    Err(IrError::Inconsistent { what, message })
}

/// Checks that operands precede users, that shapes and dtypes are what [`Op::infer`] says, that outputs exist, and that
/// inputs and scalars of one index agree.
///
/// # Errors
/// The first broken rule.
pub fn verify_graph(graph: &Graph) -> Result<(), IrError> {
    let mut inputs: Vec<Option<(&Shape, DType)>> = Vec::new();
    for id in graph.ids() {
        let node = graph.node(id);
        if node.inputs.iter().any(|i| i.0 >= id.0) {
            return broken("graph", format!("%{} uses a node that comes after it", id.0));
        }
        let operands: Vec<_> =
            node.inputs.iter().map(|&i| (&graph.node(i).shape, graph.node(i).dtype)).collect();
        let (shape, dtype) = node.op.infer(&operands)?;
        if shape != node.shape || dtype != node.dtype {
            return broken(
                "graph",
                format!("%{} is {}{}, should be {dtype}{shape}", id.0, node.dtype, node.shape),
            );
        }
        if let Op::Loop { body, .. } = &node.op {
            // All outputs of a loop have one body: it is enough to look once.
            let first = graph
                .nodes()
                .iter()
                .find(|n| matches!(&n.op, Op::Loop { body: b, .. } if Arc::ptr_eq(b, body)));
            if first.is_some_and(|first| std::ptr::eq(first, node)) {
                verify_graph(&body.body)?;
            }
        }
        if let Op::Input { index, shape, dtype } = &node.op {
            let index = *index as usize;
            if inputs.len() <= index {
                inputs.resize(index + 1, None);
            }
            if inputs[index].is_some_and(|seen| seen != (shape, *dtype)) {
                return broken("graph", format!("input {index} has two shapes"));
            }
            inputs[index] = Some((shape, *dtype));
        }
    }
    match graph.outputs().iter().find(|o| o.index() >= graph.nodes().len()) {
        Some(o) => broken("graph", format!("output %{} does not exist", o.0)),
        None => Ok(()),
    }
}

/// Checks every step of a program: arguments exist, lie within their buffers and are large enough for every address a kernel forms,
/// what is read has been written, only updated inputs are written, no dispatch binds a buffer both to read and to write but for
/// updates in place, expressions are typed.
///
/// # Errors
/// The first broken rule.
pub fn verify_program(program: &Program) -> Result<(), IrError> {
    let mut written_results = vec![false; program.results.len()];
    let mut written_temps = vec![false; program.temps.len()];
    if program.updates.iter().any(|&i| i as usize >= program.inputs.len()) {
        return broken(
            "program",
            format!("updates {:?} of {} inputs", program.updates, program.inputs.len()),
        );
    }
    for (n, step) in program.steps.iter().enumerate() {
        let at = |message: String| format!("step {n} ({}): {message}", step.label);
        let fail = |message: String| broken("program", at(message));
        let writes = step.kernel.writes();
        for (a, arg) in step.args.iter().enumerate() {
            let exists = match arg.buffer {
                BufferRef::Input(i) => (i as usize) < program.inputs.len(),
                BufferRef::Output(i) => (i as usize) < program.results.len(),
                BufferRef::Temp(i) => (i as usize) < program.temps.len(),
            };
            if !exists {
                return fail(format!("argument {arg} does not exist"));
            }
            if arg.offset % Arg::ALIGNMENT != 0 || arg.offset + arg.bytes > program.bytes(arg.buffer) {
                let bytes = program.bytes(arg.buffer);
                return fail(format!(
                    "argument {arg} of {} bytes does not fit its buffer of {bytes}",
                    arg.bytes
                ));
            }
            let written = writes.contains(&(a as u32));
            if written {
                if let BufferRef::Input(i) = arg.buffer
                    && !program.updates.contains(&i)
                {
                    return fail(format!("writes the input {arg}"));
                }
                let clash = step.args.iter().enumerate().any(|(b, other)| {
                    let both_written = writes.contains(&(b as u32));
                    b != a && other.buffer == arg.buffer && (!both_written || other.overlaps(arg))
                });
                if clash {
                    return fail(format!("binds {arg} twice though it is written"));
                }
            }
            if !written || step.kernel.reads(a as u32) {
                let ready = match arg.buffer {
                    BufferRef::Input(_) => true,
                    BufferRef::Output(i) => written_results[i as usize],
                    BufferRef::Temp(i) => written_temps[i as usize],
                };
                if !ready {
                    return fail(format!("reads {arg} before it is written"));
                }
            }
        }
        for a in &writes {
            match step.args.get(*a as usize).map(|arg| arg.buffer) {
                Some(BufferRef::Output(i)) => written_results[i as usize] = true,
                Some(BufferRef::Temp(i)) => written_temps[i as usize] = true,
                Some(BufferRef::Input(_)) => {}
                None => return fail(format!("argument {a} is missing")),
            }
        }
        verify_kernel(&step.kernel, &|arg| step.args.get(arg as usize).map(|b| b.bytes))
            .map_err(|e| IrError::Inconsistent { what: "program", message: at(e) })?;
    }
    for out in &program.outputs {
        let (bytes_ok, exists) = match out.source {
            OutputSource::Input(i) => (true, (i as usize) < program.inputs.len()),
            OutputSource::Result(i) => {
                let exists = (i as usize) < program.results.len();
                (exists && (written_results[i as usize] || program.results[i as usize].bytes == 0), exists)
            }
        };
        if !exists || !bytes_ok {
            return broken("program", format!("output {:?} is never written", out.source));
        }
    }
    Ok(())
}

type Bytes<'a> = &'a dyn Fn(u32) -> Option<u64>;

fn verify_kernel(kernel: &Kernel, bytes: Bytes<'_>) -> Result<(), String> {
    let foreign = kernel.exprs().iter().find(|node| match node.expr {
        Expr::Product => !matches!(kernel, Kernel::MatMul(_) | Kernel::Conv(_)),
        Expr::Row(..) => !matches!(kernel, Kernel::Row(_)),
        _ => false,
    });
    if let Some(node) = foreign {
        return Err(format!("{:?} has no meaning in a {} kernel", node.expr, kernel.name()));
    }
    match kernel {
        Kernel::Map(k) => {
            verify_exprs(&k.exprs, &k.space, bytes)?;
            for store in &k.stores {
                verify_store(store, &k.exprs, &k.space, bytes)?;
                for node in &k.exprs {
                    match &node.expr {
                        Expr::Load { arg, map, .. }
                            if *arg == store.arg && map.single() != Some(&store.view) =>
                        {
                            return Err(format!("updates a{arg} in place, but not where it reads it"));
                        }
                        Expr::Gather { table, ids, .. } if [*table, *ids].contains(&store.arg) => {
                            return Err(format!("gathers from a{}, which it writes", store.arg));
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        }
        Kernel::Row(k) => {
            let space: Shape = k.outer.iter().chain(k.inner.iter()).copied().collect();
            if k.inner.elements() == 0 {
                return Err("rows are empty".into());
            }
            verify_exprs(&k.exprs, &space, bytes)?;
            let constant = row_constant(&k.exprs, k.outer.rank());
            for store in &k.stores {
                if store.view.shape == k.outer && constant.get(store.value.index()) == Some(&true) {
                    verify_store(store, &k.exprs, &k.outer, bytes)?;
                } else {
                    verify_store(store, &k.exprs, &space, bytes)?;
                }
                if kernel.reads(store.arg) {
                    return Err(format!("reads a{}, which it writes", store.arg));
                }
            }
            Ok(())
        }
        Kernel::Reduce(k) => {
            let space: Shape = k.outer.iter().chain(k.inner.iter()).copied().collect();
            verify_exprs(&k.exprs, &space, bytes)?;
            if k.outs.is_empty() {
                return Err("reduces nothing".into());
            }
            for out in &k.outs {
                let Some(value) = k.exprs.get(out.value.index()) else {
                    return Err("reduces a missing value".into());
                };
                if value.dtype.is_narrow() {
                    return Err(format!("reduces {} values", value.dtype));
                }
                fits(&IndexMap::contiguous(k.outer.clone()), value.dtype, bytes(out.arg))?;
                if kernel.reads(out.arg) {
                    return Err(format!("reads a{}, which it writes", out.arg));
                }
            }
            Ok(())
        }
        Kernel::MatMul(k) => {
            let shape = |x: usize, y: usize| -> Shape { k.batch.iter().copied().chain([x, y]).collect() };
            if k.operands.iter().any(|&d| d != k.dtype && !(d.is_half() && k.dtype == DType::F32)) {
                return Err(format!("multiplies {:?} in {}", k.operands, k.dtype));
            }
            verify_operand(&k.a, &shape(k.m, k.k), k.operands[0], bytes)?;
            verify_operand(&k.b, &shape(k.k, k.n), k.operands[1], bytes)?;
            let space = k.space();
            if let Some(sums) = k.column_sums {
                let columns: Shape = k.batch.iter().copied().chain([k.n]).collect();
                fits(&IndexMap::contiguous(columns), k.dtype, bytes(sums))?;
                if kernel.reads(sums) || k.stores.iter().any(|s| s.arg == sums) {
                    return Err(format!("uses a{sums}, which gets the column sums"));
                }
            }
            if let Some(split) = k.split {
                verify_split(k, split, bytes)?;
            }
            verify_exprs(&k.exprs, &space, bytes)?;
            if k.exprs.iter().any(|e| matches!(e.expr, Expr::Product) && e.dtype != k.dtype)
                || k.stores.is_empty()
            {
                return Err("the product is of another dtype, or nothing is stored".into());
            }
            for store in &k.stores {
                verify_store(store, &k.exprs, &space, bytes)?;
                if kernel.reads(store.arg) {
                    return Err(format!("reads a{}, which it writes", store.arg));
                }
            }
            Ok(())
        }
        Kernel::Conv(k) => {
            let Some(space) = k.spec.result(&k.x.view.shape, &k.w.view.shape) else {
                return Err(format!("the filters {} do not fit {}", k.w, k.x));
            };
            if k.dtype.is_narrow() || k.spec.axes.iter().any(|a| a.spread != 1 || a.before < 0 || a.after < 0)
            {
                return Err(format!("convolves with{}, which kernels do not", k.spec));
            }
            verify_operand(&k.x, &k.x.view.shape, k.dtype, bytes)?;
            verify_operand(&k.w, &k.w.view.shape, k.dtype, bytes)?;
            verify_exprs(&k.exprs, &space, bytes)?;
            if k.exprs.iter().any(|e| matches!(e.expr, Expr::Product) && e.dtype != k.dtype)
                || k.stores.is_empty()
            {
                return Err("the convolution is of another dtype, or nothing is stored".into());
            }
            for store in &k.stores {
                verify_store(store, &k.exprs, &space, bytes)?;
                if kernel.reads(store.arg) {
                    return Err(format!("reads a{}, which it writes", store.arg));
                }
            }
            Ok(())
        }
        Kernel::ScatterAdd(k) => {
            if k.dtype.is_narrow() || k.ids_dtype.is_narrow() {
                return Err(format!("sums {} rows by {} ids", k.dtype, k.ids_dtype));
            }
            fits(&IndexMap::contiguous([k.rows, k.row_len].into()), k.dtype, bytes(0))?;
            fits(&IndexMap::contiguous([k.count].into()), k.ids_dtype, bytes(1))?;
            fits(&IndexMap::contiguous([k.count, k.row_len].into()), k.dtype, bytes(2))?;
            fits(&IndexMap::contiguous([2 * k.count].into()), DType::U32, bytes(3))
        }
        Kernel::Cumulate(k) => {
            let space: Shape = k.lines.iter().copied().chain([k.len]).collect();
            for operand in [Some(&k.terms), k.factors.as_ref(), Some(&k.out)].into_iter().flatten() {
                verify_operand(operand, &space, k.dtype, bytes)?;
            }
            if k.dtype.is_narrow() {
                return Err(format!("accumulates {} values", k.dtype));
            }
            if kernel.reads(k.out.arg) || k.factors.is_some() != (k.op == CumulateOp::Linear) {
                return Err(format!("{} reads a{}, or has the wrong operands", k.op.name(), k.out.arg));
            }
            Ok(())
        }
        Kernel::Sort(k) => {
            if k.dtype.is_half() {
                return Err("sorts 16-bit floats".into());
            }
            let rows = IndexMap::contiguous([k.rows, k.len].into());
            fits(&rows, DType::I32, bytes(0))?;
            fits(&rows, k.dtype, bytes(1))?;
            fits(&rows, DType::U32, bytes(2))
        }
        Kernel::Attention(k) => verify_attention(&k.dims, [&k.q, &k.out], [&k.k, &k.v], k.mask, k.lse, bytes),
        Kernel::AttentionGrad(k) => {
            let rows = [&k.q, &k.out, &k.grad_out, &k.grad_q];
            verify_attention(&k.dims, rows, [&k.k, &k.v, &k.grad_k, &k.grad_v], k.mask, k.lse, bytes)?;
            let words = k.dims.batch * k.dims.heads * k.dims.queries;
            fits(&IndexMap::contiguous([words].into()), DType::F32, bytes(k.delta))
        }
    }
}

fn verify_split(k: &MatMulKernel, split: SplitK, bytes: Bytes<'_>) -> Result<(), String> {
    let SplitK { parts, products, sums } = split;
    if parts < 2 || k.k == 0 || !k.k.is_multiple_of(parts) || sums.is_some() != k.column_sums.is_some() {
        return Err(format!("a contraction of {} in {parts} parts is inconsistent", k.k));
    }
    let of =
        |last: &[usize]| -> Shape { [parts].iter().chain(k.batch.iter()).chain(last).copied().collect() };
    fits(&IndexMap::contiguous(of(&[k.m, k.n])), k.dtype, bytes(products))?;
    if let Some(sums) = sums {
        fits(&IndexMap::contiguous(of(&[k.n])), k.dtype, bytes(sums))?;
    }
    let used = |arg: u32| {
        let stored = k.stores.iter().any(|s| s.arg == arg) || k.column_sums == Some(arg);
        stored || Kernel::MatMul(k.clone()).reads(arg)
    };
    match split.scratch().find(|&arg| used(arg)) {
        Some(arg) => Err(format!("uses a{arg}, which is scratch")),
        None => Ok(()),
    }
}

/// Operands by the length of their sequences, the mask, and the logarithms.
fn verify_attention<const Q: usize, const K: usize>(
    dims: &AttentionDims,
    by_query: [&Operand; Q],
    by_key: [&Operand; K],
    mask: Option<u32>,
    lse: u32,
    bytes: Bytes<'_>,
) -> Result<(), String> {
    let AttentionDims { batch, heads, kv_heads, queries, keys, width, spec } = *dims;
    if kv_heads == 0 || heads % kv_heads != 0 || spec.masked != mask.is_some() || spec.window == Some(0) {
        return Err(format!("attention {dims} is inconsistent"));
    }
    for operand in by_query {
        verify_operand(operand, &[batch, queries, heads, width].into(), DType::F32, bytes)?;
    }
    for operand in by_key {
        verify_operand(operand, &[batch, keys, kv_heads, width].into(), DType::F32, bytes)?;
    }
    if let Some(mask) = mask {
        fits(&IndexMap::contiguous([batch, keys].into()), DType::Bool, bytes(mask))?;
    }
    fits(&IndexMap::contiguous([batch, heads, queries].into()), DType::F32, bytes(lse))
}

fn verify_operand(operand: &Operand, shape: &Shape, dtype: DType, bytes: Bytes<'_>) -> Result<(), String> {
    if operand.view.shape != *shape || operand.view.mask.is_some() {
        return Err(format!("operand {operand} does not span {shape}"));
    }
    fits(&operand.view.clone().into(), dtype, bytes(operand.arg))
}

fn verify_store(store: &Store, exprs: &[ExprNode], space: &Shape, bytes: Bytes<'_>) -> Result<(), String> {
    let Some(value) = exprs.get(store.value.index()) else {
        return Err("stores a missing value".into());
    };
    if store.view.mask.is_some() || store.view.shape != *space {
        return Err("stores through a mask or over another space".into());
    }
    fits(&store.view.clone().into(), value.dtype, bytes(store.arg))
}

/// For each expression of a [`RowKernel`](crate::RowKernel) with `outer` leading axes, whether it has one value per row.
pub fn row_constant(exprs: &[ExprNode], outer: usize) -> Vec<bool> {
    let mut constant: Vec<bool> = Vec::with_capacity(exprs.len());
    for node in exprs {
        let map_is_constant = |map: &IndexMap| {
            let view = map.outer();
            let still = (outer..view.shape.rank()).all(|d| view.strides[d] == 0 || view.shape[d] == 1);
            still && view.mask.as_ref().is_none_or(|m| (outer..m.len()).all(|d| m[d] == (0, view.shape[d])))
        };
        let is = match &node.expr {
            Expr::Const(_) | Expr::Scalar(_) | Expr::Row(..) => true,
            Expr::Load { map, .. }
            | Expr::Index { map }
            | Expr::Random { map, .. }
            | Expr::Gather { map, .. } => map_is_constant(map),
            Expr::Product => false,
            _ => node.expr.operands().all(|o| constant.get(o.index()) == Some(&true)),
        };
        constant.push(is);
    }
    constant
}

fn verify_exprs(exprs: &[ExprNode], space: &Shape, bytes: Bytes<'_>) -> Result<(), String> {
    for (i, node) in exprs.iter().enumerate() {
        if node.expr.operands().any(|o| o.index() >= i) {
            return Err(format!("v{i} uses a value that comes after it"));
        }
        let dtype = |id: crate::ExprId| exprs[id.index()].dtype;
        let typed = match &node.expr {
            Expr::Const(value) => value.dtype() == node.dtype,
            Expr::Scalar(_) => true,
            Expr::Cast(a) => {
                let half = |x: DType, y: DType| !x.is_half() || y == DType::F32 || y == x;
                half(dtype(*a), node.dtype) && half(node.dtype, dtype(*a))
            }
            Expr::Load { arg, map, fill } => {
                check_map(map, space)?;
                fits(map, node.dtype, bytes(*arg))?;
                fill.dtype() == node.dtype
            }
            Expr::Index { map } => {
                check_map(map, space)?;
                node.dtype == DType::I32
            }
            Expr::Random { map, key, .. } => {
                check_map(map, space)?;
                key.iter().all(|&k| dtype(k) == DType::U32)
            }
            Expr::Gather { table, ids, ids_dtype, rows, row_len, map } => {
                check_map(map, space)?;
                fits(&IndexMap::contiguous([*rows, *row_len].into()), node.dtype, bytes(*table))?;
                // Addresses lie in `[ids.., row_len]`, the shape nearest to memory; empty rows read no id.
                let last = extremes(&map.views()[0]).map(|(_, high)| high.max(0) as usize);
                let count = last.map_or(0, |address| address / (*row_len).max(1) + 1);
                fits(&IndexMap::contiguous([count].into()), *ids_dtype, bytes(*ids))?;
                ids_dtype.is_int() && !ids_dtype.is_narrow()
            }
            // What is kept in a narrow dtype is moved, chosen and converted, but not computed with.
            Expr::Unary(_, a) => dtype(*a) == node.dtype && !node.dtype.is_narrow(),
            Expr::Binary(_, a, b) => {
                dtype(*a) == node.dtype && dtype(*b) == node.dtype && !node.dtype.is_narrow()
            }
            Expr::Compare(_, a, b) => {
                dtype(*a) == dtype(*b) && node.dtype == DType::Bool && !dtype(*a).is_narrow()
            }
            Expr::Select(c, a, b) => {
                dtype(*c) == DType::Bool && dtype(*a) == node.dtype && dtype(*b) == node.dtype
            }
            Expr::Product => node.dtype.is_float() && !node.dtype.is_narrow(),
            Expr::Row(_, a) => {
                dtype(*a) == node.dtype && node.dtype != DType::Bool && !node.dtype.is_narrow()
            }
        };
        if !typed {
            return Err(format!("v{i} ({:?}) is ill-typed", node.expr));
        }
    }
    Ok(())
}

fn check_map(map: &IndexMap, space: &Shape) -> Result<(), String> {
    if map.outer().shape == *space { Ok(()) } else { Err(format!("map {map} does not span {space}")) }
}

/// Whether every address that the map can form lies within the buffer.
fn fits(map: &IndexMap, dtype: DType, bytes: Option<u64>) -> Result<(), String> {
    let Some(bytes) = bytes else { return Err("an argument is missing".into()) };
    for (i, view) in map.views().iter().enumerate() {
        let Some((low, high)) = extremes(view) else { continue };
        let limit = if i == 0 {
            // A stored bool takes one byte or more; the exact size is the device's.
            bytes / dtype.host_bytes() as u64
        } else {
            map.views()[i - 1].shape.elements() as u64
        };
        if low < 0 || high as u64 >= limit {
            return Err(format!("view {view} reaches {low}..={high} of {limit} elements"));
        }
    }
    Ok(())
}

/// Smallest and largest address inside the mask, `None` if there is none.
fn extremes(view: &View) -> Option<(i64, i64)> {
    let (mut low, mut high) = (view.offset, view.offset);
    for d in 0..view.shape.rank() {
        let (from, to) = view.mask.as_ref().map_or((0, view.shape[d]), |m| m[d]);
        if from >= to {
            return None;
        }
        let (x, y) = (view.strides[d] * from as i64, view.strides[d] * (to as i64 - 1));
        low += x.min(y);
        high += x.max(y);
    }
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{BufferSpec, ExprId, MapKernel, OutputSpec, Step, Store, UnaryOp};

    /// `y = exp(x)` over four elements, by hand.
    fn program() -> Program {
        let spec = BufferSpec { shape: [4].into(), dtype: DType::F32, bytes: 16 };
        let load = Expr::Load {
            arg: 1,
            map: IndexMap::contiguous([4].into()),
            fill: crate::Literal::zero(DType::F32),
        };
        let exprs = vec![
            ExprNode { expr: load, dtype: DType::F32 },
            ExprNode { expr: Expr::Unary(UnaryOp::Exp, ExprId(0)), dtype: DType::F32 },
        ];
        let stores = vec![Store { arg: 0, value: ExprId(1), view: View::contiguous([4].into()) }];
        let kernel = Arc::new(Kernel::Map(MapKernel { space: [4].into(), exprs, stores }));
        let arg = |buffer| Arg { buffer, offset: 0, bytes: 16 };
        let args = vec![arg(BufferRef::Output(0)), arg(BufferRef::Input(0))];
        Program {
            inputs: vec![spec.clone()],
            results: vec![spec.clone()],
            outputs: vec![OutputSpec {
                source: OutputSource::Result(0),
                shape: spec.shape,
                dtype: spec.dtype,
            }],
            steps: vec![Step { kernel, args, label: "exp".into() }],
            ..Program::default()
        }
    }

    #[test]
    fn a_sound_program_passes() {
        assert_eq!(verify_program(&program()), Ok(()));
    }

    #[test]
    fn a_buffer_too_small_for_its_kernel_is_found() {
        let mut p = program();
        p.inputs[0].bytes = 12;
        p.steps[0].args[1].bytes = 12;
        let error = verify_program(&p).unwrap_err().to_string();
        assert!(error.contains("reaches 0..=3 of 3 elements") && error.contains("exp"), "{error}");
    }

    #[test]
    fn reading_what_is_not_yet_written_is_found() {
        let mut p = program();
        p.temps = vec![16];
        Arc::make_mut(&mut p.steps[0].kernel);
        p.steps[0].args[1].buffer = BufferRef::Temp(0);
        assert!(verify_program(&p).unwrap_err().to_string().contains("before it is written"));
    }

    #[test]
    fn writing_an_input_and_reading_what_is_written_are_found() {
        let mut p = program();
        p.steps[0].args[0].buffer = BufferRef::Input(0);
        assert!(verify_program(&p).unwrap_err().to_string().contains("writes the input"));
        let mut p = program();
        p.steps[0].args[1].buffer = BufferRef::Output(0);
        assert!(verify_program(&p).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused_with_their_shapes() {
        let mut g = Graph::new();
        let input = |index, shape: Shape| Op::Input { index, shape, dtype: DType::F32 };
        let a = g.push(input(0, [2, 3].into()), &[]).unwrap();
        let b = g.push(input(1, [2, 4].into()), &[]).unwrap();
        let error = g.push(Op::Binary(crate::BinaryOp::Add), &[a, b]).unwrap_err().to_string();
        assert_eq!(error, "[add] expects operands of one shape and dtype, got f32[2, 3] and f32[2, 4]");
        let error = g.push(Op::Dot, &[a, b]).unwrap_err().to_string();
        assert!(
            error.contains("[batch.., m, k] x [batch.., k, n]") && error.contains("f32[2, 4]"),
            "{error}"
        );
    }
}
