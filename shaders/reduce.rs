//! Reduce kernels: one invocation per result, or one workgroup with a tree.

use std::fmt::Write;

use wgrad_ir::{
    DType, DeviceCaps, Expr, ExprId, ExprNode, ReduceKernel, ReduceOp, RowKernel, Shape, Store, View,
};

use crate::{
    Dispatch, KernelError,
    bindings::value_type,
    expr::{At, Emitter, extreme, outer_views},
    grid::Grid,
    index::{Axis, check_elements, check_iterations, collapse, stride, write_coordinates},
    library::Part,
    unroll::unroll,
    wide::{Lanes, wide_loads},
};

const WHAT: &str = "a reduction";

/// Who computes one result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceVariant {
    /// One invocation; good for many results.
    Thread,
    /// A workgroup of that many invocations (a power of two); good for few, long results.
    Tree(u32),
    /// Columns in fours or one by one, each by that many invocations (a power of two); good where neighbouring results
    /// are neighbours in memory.
    Column(u32),
}

/// Generates one dispatch with the variant that suits extents and device; none if there are no results.
pub(crate) fn generate(kernel: &ReduceKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    let columns = Layout::new(kernel)?.columns(kernel);
    if !columns && let Some(rows) = as_rows(kernel)? {
        return crate::row::generate(&rows, caps, None);
    }
    generate_as(kernel, caps, choose(kernel, caps, columns))
}

/// The same reductions as a row kernel, where that would load four neighbours at once.
fn as_rows(kernel: &ReduceKernel) -> Result<Option<RowKernel>, KernelError> {
    let Layout { live, axes, split } = Layout::new(kernel)?;
    let fours = axes[split..].last().is_some_and(|a| a.len.is_multiple_of(4));
    if !fours || kernel.inner.elements() < 32 || wide_loads(&kernel.exprs, &live, &axes).is_empty() {
        return Ok(None);
    }
    let mut exprs = kernel.exprs.clone();
    let mut stores = Vec::new();
    for out in &kernel.outs {
        let dtype = kernel.exprs[out.value.index()].dtype;
        let value = ExprId(exprs.len() as u32);
        exprs.push(ExprNode { expr: Expr::Row(out.op, out.value), dtype });
        stores.push(Store { arg: out.arg, value, view: View::contiguous(kernel.outer.clone()) });
    }
    Ok(Some(RowKernel { outer: kernel.outer.clone(), inner: kernel.inner.clone(), exprs, stores }))
}

/// How a kernel walks its space.
struct Layout {
    live: Vec<bool>,
    axes: Vec<Axis>,
    /// Where the combined axes begin.
    split: usize,
}

impl Layout {
    fn new(kernel: &ReduceKernel) -> Result<Layout, KernelError> {
        let wanted: Vec<ExprId> = kernel.outs.iter().map(|o| o.value).collect();
        let live = Emitter::new(WHAT, &kernel.exprs).live(&wanted)?;
        let space: Shape = kernel.outer.iter().chain(kernel.inner.iter()).copied().collect();
        let wall = kernel.outer.rank();
        let axes = collapse(&space, &outer_views(&kernel.exprs, &live), &[wall]);
        let split = axes.iter().position(|a| a.from.start >= wall).unwrap_or(axes.len());
        Ok(Layout { live, axes, split })
    }

    /// The axes with those that are combined first.
    fn turned(&self) -> Vec<Axis> {
        [&self.axes[self.split..], &self.axes[..self.split]].concat()
    }

    /// Whether neighbouring results are neighbours in memory, and neighbouring terms are not.
    fn columns(&self, kernel: &ReduceKernel) -> bool {
        let (outer, inner) = (self.axes[..self.split].last(), self.axes[self.split..].last());
        let Some(outer) = outer else { return false };
        let views = outer_views(&kernel.exprs, &self.live);
        views.iter().any(|v| stride(v, outer) == 1 && inner.is_none_or(|a| stride(v, a) != 1))
            && !views.iter().any(|v| inner.is_some_and(|a| stride(v, a) == 1))
    }

    /// The loads that fetch four neighbouring results' elements, if results come in fours.
    fn wide(&self, kernel: &ReduceKernel) -> Vec<usize> {
        let fours = self.split > 0 && self.axes[self.split - 1].len.is_multiple_of(4);
        if fours { wide_loads(&kernel.exprs, &self.live, &self.turned()) } else { Vec::new() }
    }
}

/// The variant that suits extents and device.
fn choose(kernel: &ReduceKernel, caps: &DeviceCaps, columns: bool) -> ReduceVariant {
    let (outer, inner) = (kernel.outer.elements(), kernel.inner.elements());
    let most = caps.max_workgroup_invocations.min(caps.max_workgroup_bytes / 4).clamp(1, 256);
    let tree = |wanted: usize| {
        let size = wanted.next_power_of_two().min(most as usize) as u32;
        ReduceVariant::Tree(if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 })
    };
    // Software walks down one strip of columns after the other: where they do not stay in the cache, narrow strips are better.
    let cached = !caps.software || outer.saturating_mul(inner) <= 1 << 18 || inner > 60_000;
    if columns && inner > 0 && cached {
        // Enough invocations for a real GPU; on software, barriers cost more than they bring unless columns are few.
        let parts = match (caps.software, outer, inner) {
            (true, ..16, 4096..) => 16,
            (true, ..) => inner.div_ceil(60_000).next_power_of_two() as u32,
            (false, _, ..32) => 1,
            (false, ..4096, _) => 16,
            _ => 8,
        };
        return ReduceVariant::Column(parts.min(most));
    }
    if caps.software {
        // Barriers are dear where they are a switch between loops; they pay only if invocations would stand idle.
        return match (outer, inner) {
            // One invocation must not loop too often there (see `check_iterations`).
            (_, 200_000..) => tree(256),
            (..32, 256..) => tree(64),
            _ => ReduceVariant::Thread,
        };
    }
    if inner < 32 { ReduceVariant::Thread } else { tree(inner.div_ceil(4).max(32)) }
}

/// As [`generate`], with a given variant.
pub(crate) fn generate_as(
    kernel: &ReduceKernel,
    caps: &DeviceCaps,
    variant: ReduceVariant,
) -> Result<Vec<Dispatch>, KernelError> {
    let (outer, inner) = (kernel.outer.elements(), kernel.inner.elements());
    if outer == 0 {
        return Ok(Vec::new());
    }
    check_elements("the results of a reduction", outer)?;
    check_elements("the extents that a reduction combines", inner)?;
    let mut emitter = Emitter::new(WHAT, &kernel.exprs);
    let wanted: Vec<ExprId> = kernel.outs.iter().map(|o| o.value).collect();
    let results = results(kernel, &mut emitter)?;
    let layout = Layout::new(kernel)?;

    let (axes, split) = (&layout.axes, layout.split);
    let names: Vec<String> = (0..axes.len()).map(|d| format!("c{d}")).collect();
    let mut body = String::new();
    let fours = matches!(variant, ReduceVariant::Column(_)) && inner > 0 && !layout.wide(kernel).is_empty();
    if fours {
        // `column_values` takes the place of `values`, and binds the same buffers as vec4.
    } else if inner > 0 {
        write_coordinates(&mut body, "o", &axes[..split], &names[..split]);
        write_coordinates(&mut body, "r", &axes[split..], &names[split..]);
        body += &emitter.emit(&wanted, &[], &At { axes, names: &names })?;
        let list: Vec<String> = wanted.iter().map(|v| format!("v{}", v.0)).collect();
        let _ = writeln!(body, "return Values({});", list.join(", "));
    } else {
        // Nothing to combine: the empty space has no addresses, and the results are the identity of a sum.
        body += "return Values();\n";
    }
    let mut columns = (String::new(), false);
    let (text, size, groups) = match variant {
        ReduceVariant::Thread => {
            let size = 64u32.min(caps.max_workgroup_invocations.max(1));
            check_iterations(caps, WHAT, inner / 4 + inner / 128 + 4)?;
            (include_str!("reduce/thread.wgsl"), size, outer.div_ceil(size as usize))
        }
        ReduceVariant::Tree(size) => {
            let each = inner / size as usize;
            check_iterations(caps, WHAT, each + each / 128 + 12)?;
            (include_str!("reduce/tree.wgsl"), size, outer)
        }
        ReduceVariant::Column(parts) => {
            let each = inner / parts as usize;
            check_iterations(caps, WHAT, each + each / 128 + 12)?;
            columns = column_values(kernel, &layout, &mut emitter)?;
            let lanes = if columns.1 { 4 } else { 1 };
            // Workgroups for every core of a software adapter, full ones for a GPU.
            let wanted = if caps.software { 8 } else { (256 / parts).max(1) };
            let fits = |cols: u32| {
                cols * parts <= caps.max_workgroup_invocations.max(1)
                    && cols * parts * lanes * 4 * kernel.outs.len() as u32 <= caps.max_workgroup_bytes
            };
            let mut cols = wanted;
            while cols > 1 && !fits(cols) {
                cols /= 2;
            }
            let _ = writeln!(
                columns.0,
                "const LANES: i32 = {lanes}i;\nconst COLS: u32 = {cols}u;\nconst PARTS: u32 = {parts}u;"
            );
            (include_str!("reduce/column.wgsl"), cols * parts, outer.div_ceil((cols * lanes) as usize))
        }
    };
    let grid = Grid::fold(groups, caps.max_workgroups_per_dim)?;

    let values =
        if fours { String::new() } else { format!("fn values(o: u32, r: u32) -> Values {{\n{body}}}\n") };
    let mut source = String::new();
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    let _ = write!(
        source,
        "{results}const OUTER: u32 = {outer}u;\nconst INNER: u32 = {inner}u;\nconst SIZE: u32 = {size}u;\n\
         {values}\
         fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{}{}",
        grid.number,
        columns.0,
        unroll(text, &[("LANES", if columns.1 { 4 } else { 1 })]),
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: emitter.bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size: size,
        subgroups: false,
    }])
}

/// The type of what is combined, and how: hooks of all variants.
fn results(kernel: &ReduceKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let (mut fields, mut starts, mut combined, mut stores) =
        (String::new(), Vec::new(), Vec::new(), String::new());
    let mut by_element = false;
    for (n, out) in kernel.outs.iter().enumerate() {
        let dtype = kernel.exprs[out.value.index()].dtype;
        if dtype == DType::Bool {
            return Err(KernelError::Inconsistent("a reduction of bool".into()));
        }
        let ty = value_type(WHAT, dtype)?;
        let buffer = emitter.bindings.arg(out.arg, ty, true)?;
        let _ = writeln!(fields, "s{n}: {ty},");
        // The first element of a maximum counts twice: there is no least number to start from.
        starts.push(if out.op == ReduceOp::Sum { format!("{ty}()") } else { format!("v.s{n}") });
        by_element |= out.op != ReduceOp::Sum && kernel.inner.elements() > 0;
        let (a, b) = (format!("a.s{n}"), format!("b.s{n}"));
        combined.push(match out.op {
            ReduceOp::Sum => format!("{a} + {b}"),
            op => {
                emitter.library.need(Part::Extreme);
                extreme(op == ReduceOp::Max, dtype, &a, &b)
            }
        });
        let _ = writeln!(stores, "{buffer}[o] = v.s{n};");
    }
    Ok(format!(
        "struct Values {{\n{fields}}}\nconst STARTS_WITH_ELEMENT: bool = {by_element};\n\
         fn initial(v: Values) -> Values {{ return Values({}); }}\n\
         fn combine(a: Values, b: Values) -> Values {{ return Values({}); }}\n\
         fn store(o: u32, v: Values) {{\n{stores}}}\n",
        starts.join(", "),
        combined.join(", "),
    ))
}

/// The hook `column_values`, and whether it has four results at once.
fn column_values(
    kernel: &ReduceKernel,
    layout: &Layout,
    emitter: &mut Emitter<'_>,
) -> Result<(String, bool), KernelError> {
    let head = "fn column_values(o: u32, r: u32) -> array<Values, LANES> {\n";
    let loads = layout.wide(kernel);
    if loads.is_empty() || kernel.inner.elements() == 0 {
        return Ok((format!("{head}return array<Values, LANES>(values(o, r));\n}}\n"), false));
    }
    let axes = layout.turned();
    let inner = axes.len() - layout.split;
    let names: Vec<String> = (0..axes.len()).map(|d| format!("c{d}")).collect();
    let mut first = names.clone();
    first[axes.len() - 1] = "first".into();
    let mut body = String::new();
    write_coordinates(&mut body, "r", &axes[..inner], &first[..inner]);
    write_coordinates(&mut body, "o", &axes[inner..], &first[inner..]);
    body += "var found: array<Values, LANES>;\n";
    let wanted: Vec<usize> = kernel.outs.iter().map(|o| o.value.index()).collect();
    let list: Vec<String> = wanted.iter().map(|v| format!("v{v}")).collect();
    let lanes = Lanes { axes: &axes, names: &names, first: "first", loads: &loads };
    lanes.write(
        &mut body,
        emitter,
        [&wanted, &[]],
        |_| String::new(),
        |out, lane| {
            let _ = writeln!(out, "found[{lane}] = Values({});", list.join(", "));
        },
    )?;
    Ok((format!("{head}{body}return found;\n}}\n"), true))
}
