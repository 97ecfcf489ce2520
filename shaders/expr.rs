//! Expressions as WGSL statements: value `i` of a kernel becomes `v{i}`.

use std::fmt::Write;

use wgrad_ir::{
    BinaryOp, CompareOp, DType, Expr, ExprId, ExprNode, IndexMap, Literal, RandomKind, UnaryOp, View,
};

use crate::{
    KernelError,
    bindings::{Bindings, value_type},
    index::{Axis, check_elements, locate},
    library::{Library, Part},
};

/// Writes expressions, and collects the bindings and functions that they need.
#[derive(Debug)]
pub(crate) struct Emitter<'k> {
    pub(crate) what: &'static str,
    pub(crate) exprs: &'k [ExprNode],
    pub(crate) bindings: Bindings,
    pub(crate) library: Library,
    /// Arguments of 16-bit floats that are stored one at a time.
    pub(crate) shared: Vec<u32>,
}

/// The coordinates that expressions are evaluated at.
pub(crate) struct At<'a> {
    pub(crate) axes: &'a [Axis],
    pub(crate) names: &'a [String],
}

impl<'k> Emitter<'k> {
    pub(crate) fn new(what: &'static str, exprs: &'k [ExprNode]) -> Self {
        Emitter {
            what,
            exprs,
            bindings: Bindings::default(),
            library: Library::default(),
            shared: Vec::new(),
        }
    }

    /// Which expressions the wanted ones depend on.
    pub(crate) fn live(&self, wanted: &[ExprId]) -> Result<Vec<bool>, KernelError> {
        self.needed(wanted, &[])
    }

    /// As [`Self::live`], without what only those in `given` depend on.
    pub(crate) fn needed(&self, wanted: &[ExprId], given: &[usize]) -> Result<Vec<bool>, KernelError> {
        let mut live = vec![false; self.exprs.len()];
        for id in wanted {
            *live
                .get_mut(id.index())
                .ok_or_else(|| KernelError::Inconsistent(format!("value v{} does not exist", id.0)))? = true;
        }
        for i in (0..self.exprs.len()).rev() {
            if live[i] && !given.contains(&i) {
                for id in self.exprs[i].expr.operands() {
                    if id.index() >= i {
                        return Err(KernelError::Inconsistent(format!("v{i} uses a later value")));
                    }
                    live[id.index()] = true;
                }
            }
        }
        Ok(live)
    }

    /// Statements that define the wanted values and all they depend on, but for those in `given`.
    pub(crate) fn emit(
        &mut self,
        wanted: &[ExprId],
        given: &[usize],
        at: &At<'_>,
    ) -> Result<String, KernelError> {
        let live = self.needed(wanted, given)?;
        let mut out = String::new();
        for (i, node) in self.exprs.iter().enumerate() {
            if live[i] && !given.contains(&i) {
                self.emit_one(&mut out, i, node, at)?;
            }
        }
        Ok(out)
    }

    fn emit_one(
        &mut self,
        out: &mut String,
        i: usize,
        node: &ExprNode,
        at: &At<'_>,
    ) -> Result<(), KernelError> {
        let ty = value_type(self.what, node.dtype)?;
        match &node.expr {
            Expr::Load { arg, map, fill } => {
                let fill = self.literal(*fill)?;
                self.place(out, i, ty, map, &fill, at, |emitter, address, _| {
                    Ok((String::new(), emitter.load(*arg, node.dtype, address)?))
                })
            }
            Expr::Index { map } => {
                self.place(out, i, ty, map, "0i", at, |_, address, _| Ok((String::new(), address.to_owned())))
            }
            Expr::Random { stream, kind, map, key } => {
                self.library.need(Part::Philox);
                let word = |address: &str| {
                    format!(
                        "w_random_word(u32({address}), {stream}u, v{}, v{}, v{})",
                        key[2].0, key[0].0, key[1].0
                    )
                };
                let (kind, zero) = match kind {
                    RandomKind::Bits => (false, "0u"),
                    RandomKind::Uniform => (true, "0.0f"),
                };
                self.place(out, i, ty, map, zero, at, |_, address, _| {
                    let word = word(address);
                    Ok((String::new(), if kind { format!("w_uniform({word})") } else { word }))
                })
            }
            Expr::Gather { table, ids, ids_dtype, rows, row_len, map } => {
                check_elements("a gathered table", rows.saturating_mul(*row_len))?;
                self.singles(*table, node.dtype, false)?;
                let ids = self.singles(*ids, *ids_dtype, false)?;
                let status = self.bindings.status()?;
                let fill = self.literal(Literal::zero(node.dtype))?;
                let (dtype, last) = (node.dtype, rows.saturating_sub(1));
                let out_of_range = match ids_dtype {
                    DType::I32 => format!("v{i}_id < 0i || v{i}_id > {last}i"),
                    _ => format!("v{i}_id > {last}u"),
                };
                let clamped = match ids_dtype {
                    DType::I32 => format!("clamp(v{i}_id, 0i, {last}i)"),
                    _ => format!("i32(min(v{i}_id, {last}u))"),
                };
                self.place(out, i, ty, map, &fill, at, |emitter, address, name| {
                    let mut s = String::new();
                    let _ = writeln!(s, "let {name}_at = u32({address});");
                    let _ = writeln!(s, "let {name}_id = {ids}[{name}_at / {row_len}u];");
                    let _ = writeln!(s, "if ({out_of_range}) {{ atomicOr(&{status}, 1u); }}");
                    let row = format!("{clamped} * {row_len}i + i32({name}_at % {row_len}u)");
                    Ok((s, emitter.load(*table, dtype, &row)?))
                })
            }
            other => {
                let value = self.compute(other, node.dtype)?;
                let _ = writeln!(out, "let v{i} = {ty}({value});");
                Ok(())
            }
        }
    }

    /// Defines `v{i}` as what `access` makes of the mapped address, or `fill` where a mask excludes the index.
    #[expect(clippy::too_many_arguments, reason = "one helper for the four expressions that have a map")]
    fn place(
        &mut self,
        out: &mut String,
        i: usize,
        ty: &str,
        map: &IndexMap,
        fill: &str,
        at: &At<'_>,
        access: impl FnOnce(&mut Self, &str, &str) -> Result<(String, String), KernelError>,
    ) -> Result<(), KernelError> {
        let name = format!("v{i}");
        let found = locate(map, at.axes, at.names, &name)?;
        let (before, value) = access(self, &found.address, &name)?;
        if found.open == 0 {
            let _ = write!(out, "{}{before}", found.statements);
            let _ = writeln!(out, "let {name} = {value};");
        } else {
            let _ = writeln!(out, "var {name}: {ty} = {fill};");
            let _ = write!(out, "{}{before}", found.statements);
            let _ = writeln!(out, "{name} = {value};");
            let _ = writeln!(out, "{}", "}".repeat(found.open));
        }
        Ok(())
    }

    fn compute(&mut self, expr: &Expr, dtype: DType) -> Result<String, KernelError> {
        let of = |id: ExprId| self.exprs[id.index()].dtype;
        Ok(match expr {
            Expr::Const(value) => self.literal(*value)?,
            Expr::Scalar(index) => {
                let words = self.bindings.scalars()?;
                let word = format!("{words}[{index}u]");
                if dtype.is_half() {
                    self.unrounded(dtype, &word)
                } else {
                    from_word(self.what, dtype, &word)?
                }
            }
            Expr::Unary(op, a) => self.unary(*op, &format!("v{}", a.0)),
            Expr::Binary(op, a, b) => self.binary(*op, dtype, &format!("v{}", a.0), &format!("v{}", b.0)),
            Expr::Compare(op, a, b) => match self.special(*op, *a, *b) {
                Some(test) => {
                    self.library.need(Part::Extreme);
                    test
                }
                None => compare(*op, of(*a), a.0, b.0),
            },
            Expr::Select(c, a, b) => format!("select(v{}, v{}, v{})", b.0, a.0, c.0),
            Expr::Cast(a) => {
                let from = of(*a);
                self.cast(from, dtype, &format!("v{}", a.0))
            }
            Expr::Product => "product".into(),
            // These have an address or span a row, and were handled by the caller.
            Expr::Row(..)
            | Expr::Load { .. }
            | Expr::Index { .. }
            | Expr::Random { .. }
            | Expr::Gather { .. } => {
                return Err(KernelError::Inconsistent("this value has no plain form here".into()));
            }
        })
    }

    /// Comparisons that ask whether a float is NaN, infinite or neither, by its bits.
    fn special(&self, op: CompareOp, a: ExprId, b: ExprId) -> Option<String> {
        let node = |id: ExprId| &self.exprs[id.index()];
        if !node(a).dtype.is_float() {
            return None;
        }
        let largest = Literal::from_f64(DType::F32, f64::from(f32::MAX));
        match (op, &node(a).expr, &node(b).expr) {
            (CompareOp::Ne, ..) if a == b => Some(format!("w_is_nan(v{})", a.0)),
            (CompareOp::Eq, ..) if a == b => Some(format!("!w_is_nan(v{})", a.0)),
            (CompareOp::Gt, Expr::Unary(UnaryOp::Abs, x), Expr::Const(c)) if *c == largest => {
                Some(format!("w_is_infinite(v{})", x.0))
            }
            (CompareOp::Le, Expr::Unary(UnaryOp::Abs, x), Expr::Const(c)) if *c == largest => {
                Some(format!("!(w_is_infinite(v{0}) || w_is_nan(v{0}))", x.0))
            }
            _ => None,
        }
    }

    fn unary(&mut self, op: UnaryOp, a: &str) -> String {
        let mut call = |part, name: &str| {
            self.library.need(part);
            format!("{name}({a})")
        };
        match op {
            UnaryOp::Neg => format!("-{a}"),
            UnaryOp::Abs => format!("abs({a})"),
            UnaryOp::Exp => call(Part::Exp, "w_exp"),
            UnaryOp::Log => call(Part::Log, "w_log"),
            UnaryOp::Sqrt => format!("sqrt({a})"),
            // The builtin inverse root may be good to a few bits less than a root and a division.
            UnaryOp::Rsqrt => format!("1.0f / sqrt({a})"),
            UnaryOp::Recip => format!("1.0f / {a}"),
            UnaryOp::Tanh => call(Part::Tanh, "w_tanh"),
            UnaryOp::Erf => call(Part::Erf, "w_erf"),
            UnaryOp::Sin => call(Part::Trig, "w_sin"),
            UnaryOp::Cos => call(Part::Trig, "w_cos"),
            UnaryOp::Floor => format!("floor({a})"),
            UnaryOp::Not => format!("!{a}"),
        }
    }

    fn binary(&mut self, op: BinaryOp, dtype: DType, a: &str, b: &str) -> String {
        let zero = if dtype == DType::U32 { "0u" } else { "0i" };
        let one = if dtype == DType::U32 { "1u" } else { "1i" };
        match op {
            BinaryOp::Add => format!("{a} + {b}"),
            BinaryOp::Sub => format!("{a} - {b}"),
            BinaryOp::Mul => format!("{a} * {b}"),
            BinaryOp::Div if dtype.is_int() => {
                format!("select({a} / select({b}, {one}, {b} == {zero}), {zero}, {b} == {zero})")
            }
            BinaryOp::Div => format!("{a} / {b}"),
            BinaryOp::Max | BinaryOp::Min => {
                self.library.need(Part::Extreme);
                extreme(op == BinaryOp::Max, dtype, a, b)
            }
            BinaryOp::Pow => {
                self.library.need(Part::Pow);
                format!("w_pow({a}, {b})")
            }
            BinaryOp::Rem if dtype.is_int() => {
                format!("select({a} % select({b}, {one}, {b} == {zero}), {zero}, {b} == {zero})")
            }
            BinaryOp::Rem => {
                self.library.need(Part::Rem);
                format!("w_rem({a}, {b})")
            }
            BinaryOp::And => format!("{a} && {b}"),
            BinaryOp::Or => format!("{a} || {b}"),
        }
    }

    fn cast(&mut self, from: DType, to: DType, a: &str) -> String {
        match (from, to) {
            _ if from == to => a.to_owned(),
            (_, DType::F16 | DType::BF16) => self.rounded(to, a),
            (DType::F16 | DType::BF16, DType::F32) => a.to_owned(),
            (DType::F32, DType::U8) => {
                self.library.need(Part::Convert);
                format!("min(w_to_u32({a}), 255u)")
            }
            (DType::I32 | DType::U32, DType::U8) => format!("u32({a}) & 255u"),
            (DType::Bool, DType::U8) => format!("select(0u, 1u, {a})"),
            (DType::U8, DType::Bool) => format!("{a} != 0u"),
            (DType::F32, DType::I32) => {
                self.library.need(Part::Convert);
                format!("w_to_i32({a})")
            }
            (DType::F32, DType::U32) => {
                self.library.need(Part::Convert);
                format!("w_to_u32({a})")
            }
            (DType::F32, DType::Bool) => format!("{a} != 0.0f"),
            (DType::I32, DType::Bool) => format!("{a} != 0i"),
            (DType::U32, DType::Bool) => format!("{a} != 0u"),
            (DType::Bool, DType::F32) => format!("select(0.0f, 1.0f, {a})"),
            (DType::Bool, DType::I32) => format!("select(0i, 1i, {a})"),
            (DType::Bool, DType::U32) => format!("select(0u, 1u, {a})"),
            // Between the integers WGSL reinterprets the bits, and rounds to the nearest f32. f64 has been refused by then.
            (_, to) => format!("{}({a})", to.name()),
        }
    }

    /// A constant, exact.
    pub(crate) fn literal(&mut self, value: Literal) -> Result<String, KernelError> {
        Ok(match value.dtype() {
            DType::F64 => return Err(KernelError::F64 { what: self.what }),
            DType::Bool => (value.bits() != 0).to_string(),
            DType::U32 | DType::U8 => format!("{}u", value.bits() as u32),
            DType::I32 => match value.bits() as u32 as i32 {
                i32::MIN => "(-2147483647i - 1i)".into(),
                v => integer_literal(v),
            },
            DType::F32 | DType::F16 | DType::BF16 => {
                let v = value.as_f64() as f32;
                if v.is_finite() {
                    // Rust prints the shortest digits that read back as the same number.
                    if v.is_sign_negative() { format!("({v:?}f)") } else { format!("{v:?}f") }
                } else {
                    self.library.need(Part::Special);
                    format!("w_special({:#x}u)", v.to_bits())
                }
            }
        })
    }
}

fn integer_literal(v: i32) -> String {
    if v < 0 { format!("({v}i)") } else { format!("{v}i") }
}

/// The larger or the smaller of two numbers; floats need [`Part::Extreme`].
pub(crate) fn extreme(larger: bool, dtype: DType, a: &str, b: &str) -> String {
    let (own, name) = (if dtype.is_float() { "w_" } else { "" }, if larger { "max" } else { "min" });
    format!("{own}{name}({a}, {b})")
}

fn compare(op: CompareOp, dtype: DType, a: u32, b: u32) -> String {
    let sign = match op {
        CompareOp::Eq => "==",
        CompareOp::Ne => "!=",
        CompareOp::Lt => "<",
        CompareOp::Le => "<=",
        CompareOp::Gt => ">",
        CompareOp::Ge => ">=",
    };
    match (dtype, op) {
        // WGSL orders numbers only; false < true.
        (DType::Bool, CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge) => {
            format!("u32(v{a}) {sign} u32(v{b})")
        }
        _ => format!("v{a} {sign} v{b}"),
    }
}

fn from_word(what: &'static str, dtype: DType, word: &str) -> Result<String, KernelError> {
    Ok(match dtype {
        DType::F64 => return Err(KernelError::F64 { what }),
        DType::F32 | DType::F16 | DType::BF16 => format!("bitcast<f32>({word})"),
        DType::I32 => format!("bitcast<i32>({word})"),
        DType::U32 | DType::U8 => word.to_owned(),
        DType::Bool => format!("{word} != 0u"),
    })
}

/// The views over the iteration space that expressions go through.
pub(crate) fn outer_views<'k>(exprs: &'k [ExprNode], live: &[bool]) -> Vec<&'k View> {
    let maps = exprs.iter().zip(live).filter(|(_, live)| **live).filter_map(|(node, _)| match &node.expr {
        Expr::Load { map, .. }
        | Expr::Index { map }
        | Expr::Random { map, .. }
        | Expr::Gather { map, .. } => Some(map.outer()),
        _ => None,
    });
    maps.collect()
}
