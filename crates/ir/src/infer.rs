//! Shape and dtype inference: what each primitive takes and gives.

use crate::{BinaryOp, CumulateOp, DType, IrError, Op, RandomKind, Shape, UnaryOp};

type Operand<'a> = (&'a Shape, DType);

impl Op {
    /// Shape and dtype of the result for operands of the given shapes and dtypes.
    ///
    /// # Errors
    /// [`IrError::Invalid`] with the operands' shapes where they do not fit.
    pub fn infer(&self, operands: &[Operand<'_>]) -> Result<(Shape, DType), IrError> {
        let fail = |message: String| Err(IrError::Invalid { op: self.name(), message });
        let arity = self.arity();
        if arity.is_some_and(|n| n != operands.len()) || operands.is_empty() && arity.is_none() {
            return fail(format!("expects {} operand(s), got {}", arity.unwrap_or(1), operands.len()));
        }
        match self {
            Op::Input { shape, dtype, .. } => Ok((shape.clone(), *dtype)),
            Op::Scalar { dtype, .. } => Ok((Shape::scalar(), *dtype)),
            Op::Const(value) => Ok((Shape::scalar(), value.dtype())),
            Op::Iota { len } => Ok((Shape::from([*len]), DType::I32)),
            Op::Random { kind, shape, .. } => {
                if operands.iter().any(|(s, d)| s.rank() != 0 || *d != DType::U32) {
                    return fail("expects a key and a step of three u32 scalars".into());
                }
                let dtype = match kind {
                    RandomKind::Bits => DType::U32,
                    RandomKind::Uniform => DType::F32,
                };
                Ok((shape.clone(), dtype))
            }
            Op::Unary(op) => {
                let (shape, dtype) = operands[0];
                let ok = match op {
                    UnaryOp::Not => dtype == DType::Bool,
                    UnaryOp::Neg | UnaryOp::Abs => dtype.is_float() || dtype == DType::I32,
                    _ => dtype.is_float(),
                };
                if ok {
                    Ok((shape.clone(), dtype))
                } else {
                    fail(format!("is not defined for {dtype}{shape}"))
                }
            }
            Op::Binary(op) => {
                let (shape, dtype) = same(self, operands)?;
                let ok = match op {
                    BinaryOp::And | BinaryOp::Or => dtype == DType::Bool,
                    BinaryOp::Pow => dtype.is_float(),
                    _ => dtype != DType::Bool,
                };
                if ok { Ok((shape, dtype)) } else { fail(format!("is not defined for {dtype}{shape}")) }
            }
            Op::Compare(_) => same(self, operands).map(|(shape, _)| (shape, DType::Bool)),
            Op::Select => {
                let (shape, dtype) = same(self, &operands[1..])?;
                if operands[0].1 != DType::Bool || *operands[0].0 != shape {
                    return fail(format!(
                        "expects a bool{shape} condition, got {}{}",
                        operands[0].1, operands[0].0
                    ));
                }
                Ok((shape, dtype))
            }
            Op::Cast(dtype) => Ok((operands[0].0.clone(), *dtype)),
            Op::StopGradient | Op::Barrier => Ok((operands[0].0.clone(), operands[0].1)),
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Expand(_)
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Flip(_)
            | Op::Window { .. } => {
                let (shape, dtype) = operands[0];
                self.infer_movement(shape, dtype).map(|s| (s, dtype))
            }
            Op::Concat { axis } => {
                let (first, dtype) = operands[0];
                if *axis >= first.rank() {
                    return fail(format!("axis {axis} is out of range for rank {}", first.rank()));
                }
                let mut extent: usize = 0;
                for (shape, d) in operands {
                    let fits = shape.rank() == first.rank()
                        && (0..first.rank()).all(|i| i == *axis || shape[i] == first[i]);
                    if !fits || *d != dtype {
                        return fail(format!(
                            "parts must agree in dtype and in all extents but axis {axis}: {dtype}{first} and {d}{shape}"
                        ));
                    }
                    extent = shape[*axis].saturating_add(extent);
                }
                let shape =
                    first.iter().enumerate().map(|(i, &d)| if i == *axis { extent } else { d }).collect();
                Ok((shape, dtype))
            }
            Op::Reduce { axes, .. } => {
                let (shape, dtype) = operands[0];
                if dtype == DType::Bool {
                    return fail("is not defined for bool; cast first".into());
                }
                if axes.iter().any(|&a| a >= shape.rank()) || axes.windows(2).any(|w| w[0] >= w[1]) {
                    return fail(format!("axes {axes:?} must ascend and lie within {shape}"));
                }
                if !matches!(self, Op::Reduce { op: crate::ReduceOp::Sum, .. })
                    && axes.iter().any(|&a| shape[a] == 0)
                {
                    return fail(format!("has no value over the empty axes of {shape}"));
                }
                Ok((shape.keep_dims(axes), dtype))
            }
            Op::Cumulate { op, axis } => {
                let (shape, dtype) = match op {
                    CumulateOp::Sum if operands.len() == 1 => (operands[0].0.clone(), operands[0].1),
                    CumulateOp::Linear if operands.len() == 2 => same(self, operands)?,
                    _ => return fail(format!("does not take {} operands", operands.len())),
                };
                if *axis >= shape.rank() || dtype == DType::Bool {
                    return fail(format!(
                        "expects numbers and an axis of them, got axis {axis} of {dtype}{shape}"
                    ));
                }
                Ok((shape, dtype))
            }
            Op::Loop { body, output } => body.infer(*output, operands).or_else(fail),
            Op::Dot => {
                let ((a, da), (b, db)) = (operands[0], operands[1]);
                let rank = a.rank();
                let fits = rank >= 2
                    && rank == b.rank()
                    && a[..rank - 2] == b[..rank - 2]
                    && a[rank - 1] == b[rank - 2];
                if !fits || da != db || !da.is_float() {
                    return fail(format!(
                        "expects float [batch.., m, k] x [batch.., k, n], got {da}{a} x {db}{b}"
                    ));
                }
                Ok((a[..rank - 1].iter().copied().chain([b[rank - 1]]).collect(), da))
            }
            Op::Conv(spec) => {
                let ((x, dx), (w, dw)) = (operands[0], operands[1]);
                let steps = spec.axes.iter().all(|a| a.stride > 0 && a.dilation > 0 && a.spread > 0);
                match spec.result(x, w) {
                    Some(shape) if dx == dw && dx.is_float() && steps => Ok((shape, dx)),
                    _ => fail(format!(
                        "expects float [n, g, c, sp..] and [g, o, c, taps..] with filters that fit into the padded operand, got \
                         {dx}{x} and {dw}{w}"
                    )),
                }
            }
            Op::Gather => {
                let ((table, dtype), (ids, id_dtype)) = (operands[0], operands[1]);
                if table.rank() == 0 || table[0] == 0 || !id_dtype.is_int() {
                    return fail(format!(
                        "expects table [rows >= 1, ..] and integer ids, got {dtype}{table} and {id_dtype}{ids}"
                    ));
                }
                Ok((ids.iter().chain(&table[1..]).copied().collect(), dtype))
            }
            Op::ScatterAdd { rows } => {
                let ((ids, id_dtype), (src, dtype)) = (operands[0], operands[1]);
                let fits = src.rank() >= ids.rank() && src[..ids.rank()] == ids[..];
                if !fits || !id_dtype.is_int() || dtype == DType::Bool || *rows == 0 {
                    return fail(format!(
                        "expects integer ids [idx..] and src [idx.., rest..], got {id_dtype}{ids} and {dtype}{src}"
                    ));
                }
                Ok(([*rows].into_iter().chain(src[ids.rank()..].iter().copied()).collect(), dtype))
            }
            Op::Sort { .. } => {
                let (shape, dtype) = operands[0];
                match shape.last() {
                    Some(&len) if len <= i32::MAX as usize && !dtype.is_half() => {
                        Ok((shape.clone(), DType::I32))
                    }
                    _ => fail(format!(
                        "expects rows [.., n] with an n that an i32 counts, 16-bit floats cast to f32, got {dtype}{shape}"
                    )),
                }
            }
            Op::Call { function, output } => {
                let body = &function.body;
                let mut given = vec![false; operands.len()];
                for node in body.nodes() {
                    let Op::Input { index, shape, dtype } = &node.op else { continue };
                    let index = *index as usize;
                    if operands.get(index) != Some(&(shape, *dtype)) {
                        let got = operands.get(index).map_or("none".into(), |(s, d)| format!("{d}{s}"));
                        let name = &function.name;
                        return fail(format!(
                            "operand {index} of `{name}` should be {dtype}{shape}, got {got}"
                        ));
                    }
                    given[index] = true;
                }
                if let Some(extra) = given.iter().position(|g| !g) {
                    return fail(format!("`{}` does not take operand {extra}", function.name));
                }
                match body.outputs().get(*output as usize) {
                    Some(&id) => Ok((body.node(id).shape.clone(), body.node(id).dtype)),
                    None => fail(format!("`{}` has no output {output}", function.name)),
                }
            }
        }
    }

    fn infer_movement(&self, shape: &Shape, dtype: DType) -> Result<Shape, IrError> {
        let rank = shape.rank();
        let fail = |message: String| Err(IrError::Invalid { op: self.name(), message });
        match self {
            Op::Reshape(to) if to.elements() == shape.elements() => Ok(to.clone()),
            Op::Reshape(to) => fail(format!(
                "cannot view {shape} ({} elements) as {to} ({} elements)",
                shape.elements(),
                to.elements()
            )),
            Op::Permute(perm) => {
                let mut seen = perm.to_vec();
                seen.sort_unstable();
                if !seen.iter().copied().eq(0..rank) {
                    return fail(format!("{perm:?} is not a permutation of the axes of {shape}"));
                }
                Ok(perm.iter().map(|&a| shape[a]).collect())
            }
            Op::Expand(to) => {
                if to.rank() != rank || (0..rank).any(|i| shape[i] != to[i] && shape[i] != 1) {
                    return fail(format!("cannot expand {shape} to {to}"));
                }
                Ok(to.clone())
            }
            Op::Slice { ranges } => {
                let fits = |(&(start, len, step), &d): (&(usize, usize, usize), &usize)| {
                    let last = || start.saturating_add((len - 1).saturating_mul(step));
                    step >= 1 && (len == 0 && start <= d || len > 0 && last() < d)
                };
                if ranges.len() != rank || !ranges.iter().zip(shape.iter()).all(fits) {
                    return fail(format!("(start, len, step) {ranges:?} does not lie within {shape}"));
                }
                Ok(ranges.iter().map(|r| r.1).collect())
            }
            Op::Pad { widths, fill } => {
                if widths.len() != rank || fill.dtype() != dtype {
                    return fail(format!(
                        "{} width pairs and a {} fill do not fit {dtype}{shape}",
                        widths.len(),
                        fill.dtype()
                    ));
                }
                let wide =
                    |(&(lo, hi), &d): (&(usize, usize), &usize)| d.saturating_add(lo).saturating_add(hi);
                Ok(widths.iter().zip(shape.iter()).map(wide).collect())
            }
            Op::Flip(axes) => {
                if axes.iter().any(|&a| a >= rank) {
                    return fail(format!("axes {axes:?} are out of range for {shape}"));
                }
                Ok(shape.clone())
            }
            Op::Window { axis, size, step, dilation } => {
                let span = size.saturating_sub(1).saturating_mul(*dilation).saturating_add(1);
                if *axis >= rank || *size == 0 || *step == 0 || *dilation == 0 || shape[*axis] < span {
                    return fail(format!(
                        "windows of {size} elements (step {step}, dilation {dilation}) do not fit axis {axis} of {shape}"
                    ));
                }
                let windows = (shape[*axis] - span) / step + 1;
                let moved = shape.iter().enumerate().map(|(a, &d)| if a == *axis { windows } else { d });
                Ok(moved.chain([*size]).collect())
            }
            _ => fail("is not a movement".into()),
        }
    }

    fn arity(&self) -> Option<usize> {
        match self {
            Op::Input { .. } | Op::Scalar { .. } | Op::Const(_) | Op::Iota { .. } => Some(0),
            Op::Unary(_) | Op::Cast(_) | Op::StopGradient | Op::Barrier | Op::Reduce { .. } => Some(1),
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Expand(_)
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Flip(_)
            | Op::Window { .. }
            | Op::Sort { .. } => Some(1),
            Op::Binary(_) | Op::Compare(_) | Op::Dot | Op::Conv(_) | Op::Gather | Op::ScatterAdd { .. } => {
                Some(2)
            }
            Op::Select | Op::Random { .. } => Some(3),
            Op::Concat { .. } | Op::Call { .. } | Op::Cumulate { .. } | Op::Loop { .. } => None,
        }
    }
}

fn same(op: &Op, operands: &[Operand<'_>]) -> Result<(Shape, DType), IrError> {
    let ((a, da), (b, db)) = (operands[0], operands[1]);
    if a != b || da != db {
        let message = format!("expects operands of one shape and dtype, got {da}{a} and {db}{b}");
        return Err(IrError::Invalid { op: op.name(), message });
    }
    Ok((a.clone(), da))
}
