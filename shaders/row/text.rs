//! The body of a row kernel.

use std::fmt::Write;

use wgrad_ir::{DType, Expr, ExprId, ReduceOp, RowKernel, View};

use super::{WHAT, is_per_row, phases::Phases, phases::Sum};
use crate::{
    KernelError,
    bindings::value_type,
    expr::{At, Emitter, extreme},
    index::{Axis, address, write_coordinates},
    library::Part,
    wide::{Lanes, is_wide},
};

/// What the text of one kernel is made from.
pub(super) struct Writer<'a, 'k> {
    pub(super) kernel: &'k RowKernel,
    pub(super) emitter: &'a mut Emitter<'k>,
    pub(super) phases: &'a Phases,
    pub(super) axes: &'a [Axis],
    /// Where the row's own axes begin.
    pub(super) split: usize,
    /// Loads that fetch four neighbours.
    pub(super) loads: Vec<usize>,
    /// Whether a step is four neighbours.
    pub(super) wide: bool,
    pub(super) team: u32,
    pub(super) size: u32,
    pub(super) rows: usize,
    /// Elements of a row, or fours.
    pub(super) steps: usize,
    /// The stores' views over rows and their elements.
    pub(super) store_views: &'a [View],
    /// Declarations that the body needs.
    pub(super) head: String,
}

impl Writer<'_, '_> {
    /// The statements of `main`.
    pub(super) fn body(&mut self, group_number: &str) -> Result<String, KernelError> {
        let (team, size, rows) = (self.team, self.size, self.rows);
        let stores = self.kernel.stores.iter();
        let stores = stores.map(|s| (s.arg, self.kernel.exprs[s.value.index()].dtype, self.all_wide(s.arg)));
        let stores: Vec<_> = stores.collect();
        self.emitter.share_words(stores.into_iter());
        let mut out = String::new();
        let _ = writeln!(out, "let wanted = {group_number} * {}u + local / {team}u;", size / team);
        if team == 1 {
            let _ =
                writeln!(out, "if (wanted >= {rows}u) {{ return; }}\nlet row = wanted;\nlet member = 0u;");
        } else {
            // Surplus teams walk the last row again and do not store it: they must not miss the barriers.
            let _ = writeln!(out, "let row = min(wanted, {}u);\nlet member = local % {team}u;", rows - 1);
        }
        let names = self.names();
        write_coordinates(&mut out, "row", &self.axes[..self.split], &names[..self.split]);
        let mut given = self.constants(&mut out, 0, Vec::new())?;
        for (p, sums) in self.phases.list.iter().enumerate() {
            self.phase(&mut out, p, sums, &given)?;
            given.extend(sums.iter().map(|s| s.id));
            given = self.constants(&mut out, p + 1, given)?;
        }
        self.stores(&mut out, &given)?;
        Ok(out)
    }

    fn names(&self) -> Vec<String> {
        (0..self.axes.len()).map(|d| format!("c{d}")).collect()
    }

    /// Defines what is the same along the row and can be known after `level` phases; returns all that is defined.
    fn constants(
        &mut self,
        out: &mut String,
        level: usize,
        mut given: Vec<usize>,
    ) -> Result<Vec<usize>, KernelError> {
        let wanted: Vec<ExprId> = self.kernel.stores.iter().map(|s| s.value).collect();
        let live = self.emitter.live(&wanted)?;
        let names = self.names();
        for (i, node) in self.kernel.exprs.iter().enumerate() {
            let row = matches!(node.expr, Expr::Row(..));
            if live[i] && self.phases.constant[i] && self.phases.level[i] == level && !row {
                let at = At { axes: &self.axes[..self.split], names: &names[..self.split] };
                *out += &self.emitter.emit(&[ExprId(i as u32)], &given, &at)?;
                given.push(i);
            }
        }
        Ok(given)
    }

    /// A walk along the row that computes the reductions of one phase.
    fn phase(
        &mut self,
        out: &mut String,
        p: usize,
        sums: &[Sum],
        given: &[usize],
    ) -> Result<(), KernelError> {
        let lanes = if self.wide { 4 } else { 1 };
        for sum in sums {
            let dtype = self.kernel.exprs[sum.id].dtype;
            let start = self.identity(sum.op, dtype)?;
            if sum.op != ReduceOp::Sum {
                self.emitter.library.need(Part::Extreme);
            }
            for lane in 0..lanes {
                let _ = writeln!(out, "var t{}_{lane}: {} = {start};", sum.id, value_type(WHAT, dtype)?);
            }
        }
        let wanted: Vec<ExprId> = sums.iter().map(|s| s.value).collect();
        let kernel = self.kernel;
        let combine = |sum: &Sum, a: &str, b: &str| combine(sum.op, kernel.exprs[sum.id].dtype, a, b);
        self.walk(out, &wanted, given, |out, lane| {
            for sum in sums {
                let total = format!("t{}_{lane}", sum.id);
                let _ = writeln!(out, "{total} = {};", combine(sum, &total, &format!("v{}", sum.value.0)));
            }
        })?;
        for sum in sums {
            let t = |lane: usize| format!("t{}_{lane}", sum.id);
            let mut total = t(0);
            if self.wide {
                let (low, high) = (combine(sum, &t(0), &t(1)), combine(sum, &t(2), &t(3)));
                total = combine(sum, &format!("({low})"), &format!("({high})"));
            }
            let name = if self.team == 1 { "v" } else { "t" };
            let _ = writeln!(out, "let {name}{} = {total};", sum.id);
        }
        if self.team > 1 {
            self.tree(out, p, sums)?;
        }
        Ok(())
    }

    /// Combines what the members of each team have, in shared memory.
    fn tree(&mut self, out: &mut String, p: usize, sums: &[Sum]) -> Result<(), KernelError> {
        let (mut pairs, mut results) = (String::new(), String::new());
        for sum in sums {
            let dtype = self.kernel.exprs[sum.id].dtype;
            let (id, ty) = (sum.id, value_type(WHAT, dtype)?);
            let _ = writeln!(self.head, "var<workgroup> partial{id}: array<{ty}, {}>;", self.size);
            let _ = writeln!(out, "partial{id}[local] = t{id};");
            let (a, b) = (format!("partial{id}[local]"), format!("partial{id}[local + half{p}]"));
            let _ = writeln!(pairs, "{a} = {};", combine(sum.op, dtype, &a, &b));
            let _ = writeln!(results, "let v{id} = partial{id}[local - member];");
        }
        let _ = writeln!(
            out,
            "for (var half{p} = {}u; half{p} > 0u; half{p} = half{p} / 2u) {{\nworkgroupBarrier();\n\
             if (member < half{p}) {{\n{pairs}}}\n}}\nworkgroupBarrier();\n{results}",
            self.team / 2
        );
        Ok(())
    }

    /// Writes a result per row, then walks along it for all others.
    fn stores(&mut self, out: &mut String, given: &[usize]) -> Result<(), KernelError> {
        let names = self.names();
        let stored = if self.team == 1 { "" } else { "wanted == row && " };
        let (mut single, mut along) = (String::new(), Vec::new());
        for (n, store) in self.kernel.stores.iter().enumerate() {
            let dtype = self.kernel.exprs[store.value.index()].dtype;
            if is_per_row(store, self.kernel) {
                let at = address(&self.store_views[n], &self.axes[..self.split], &names[..self.split]);
                let value = format!("v{}", store.value.0);
                let _ = writeln!(single, "{}", self.emitter.store(store.arg, dtype, &at, &value)?);
            } else {
                along.push(n);
            }
        }
        if !single.is_empty() {
            let _ = writeln!(out, "if ({stored}member == 0u) {{\n{single}}}");
        }
        if along.is_empty() {
            return Ok(());
        }
        let wanted: Vec<ExprId> = along.iter().map(|&n| self.kernel.stores[n].value).collect();
        if self.team > 1 {
            out.push_str("if (wanted == row) {\n");
        }
        let (mut lanes, mut after) = (Vec::new(), String::new());
        let mut before = String::new();
        for &n in &along {
            let store = &self.kernel.stores[n];
            let dtype = self.kernel.exprs[store.value.index()].dtype;
            let value = format!("v{}", store.value.0);
            let at = address(&self.store_views[n], self.axes, &names);
            if self.all_wide(store.arg) {
                let buffer = self.emitter.fours(store.arg, dtype, true)?;
                let _ = writeln!(before, "var r{n}: vec4<{}>;", value_type(WHAT, dtype)?);
                lanes.push((Some(n), value));
                let results = self.emitter.packed_vector(dtype, &format!("r{n}"))?;
                let _ = writeln!(after, "{buffer}[({at}) / 4i] = {results};");
            } else {
                lanes.push((None, self.emitter.store(store.arg, dtype, &at, &value)?));
            }
        }
        self.walk_around(out, &wanted, given, &before, &after, |out, lane| {
            for (wide, text) in &lanes {
                let _ = match wide {
                    Some(n) => writeln!(out, "r{n}[{lane}] = {text};"),
                    None => writeln!(out, "{text}"),
                };
            }
        })?;
        if self.team > 1 {
            out.push_str("}\n");
        }
        Ok(())
    }

    /// Whether a buffer's stores are all of four neighbours: a buffer that several stores share has one type.
    fn all_wide(&self, arg: u32) -> bool {
        let mut stores = self.kernel.stores.iter().zip(self.store_views).filter(|(s, _)| s.arg == arg);
        self.wide && stores.all(|(s, view)| !is_per_row(s, self.kernel) && is_wide(view, self.axes))
    }

    fn walk(
        &mut self,
        out: &mut String,
        wanted: &[ExprId],
        given: &[usize],
        each: impl Fn(&mut String, usize),
    ) -> Result<(), KernelError> {
        self.walk_around(out, wanted, given, "", "", each)
    }

    /// A loop over the row in which `wanted` is evaluated at every element, followed by what `each` writes for it.
    fn walk_around(
        &mut self,
        out: &mut String,
        wanted: &[ExprId],
        given: &[usize],
        before: &str,
        after: &str,
        each: impl Fn(&mut String, usize),
    ) -> Result<(), KernelError> {
        let names = self.names();
        let inner = &self.axes[self.split..];
        let _ = writeln!(out, "for (var step = member; step < {}u; step += {}u) {{", self.steps, self.team);
        if !self.wide {
            write_coordinates(out, "step", inner, &names[self.split..]);
            *out += before;
            *out += &self.emitter.emit(wanted, given, &At { axes: self.axes, names: &names })?;
            each(out, 0);
            *out += after;
            out.push_str("}\n");
            return Ok(());
        }
        // Coordinates of the first lane: the innermost axis counts in fours.
        let last = names.len() - 1;
        let mut quarter = inner.to_vec();
        if let Some(axis) = quarter.last_mut() {
            axis.len /= 4;
        }
        let mut first = names.clone();
        first[last] = format!("{}_q", names[last]);
        write_coordinates(out, "step", &quarter, &first[self.split..]);
        let _ = writeln!(out, "let first = {} * 4i;", first[last]);
        *out += before;
        let lanes = Lanes { axes: self.axes, names: &names, first: "first", loads: &self.loads };
        let wanted: Vec<usize> = wanted.iter().map(|id| id.index()).collect();
        lanes.write(out, self.emitter, [&wanted, given], |_| String::new(), each)?;
        let _ = writeln!(out, "let {} = first;", names[last]);
        *out += after;
        out.push_str("}\n");
        Ok(())
    }

    /// What a combination starts from.
    fn identity(&mut self, op: ReduceOp, dtype: DType) -> Result<String, KernelError> {
        let special = |bits: u32, emitter: &mut Emitter<'_>| {
            emitter.library.need(Part::Special);
            format!("w_special({bits:#x}u)")
        };
        Ok(match (op, dtype) {
            (ReduceOp::Sum, _) => format!("{}()", value_type(WHAT, dtype)?),
            (ReduceOp::Max, DType::F32) => special(0xff80_0000, self.emitter),
            (ReduceOp::Min, DType::F32) => special(0x7f80_0000, self.emitter),
            (ReduceOp::Max, DType::I32) => "(-2147483647i - 1i)".into(),
            (ReduceOp::Min, DType::I32) => "2147483647i".into(),
            (ReduceOp::Max, _) => "0u".into(),
            (ReduceOp::Min, _) => "4294967295u".into(),
        })
    }
}

fn combine(op: ReduceOp, dtype: DType, a: &str, b: &str) -> String {
    match op {
        ReduceOp::Sum => format!("{a} + {b}"),
        op => extreme(op == ReduceOp::Max, dtype, a, b),
    }
}
