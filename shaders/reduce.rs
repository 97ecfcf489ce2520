//! Reduce kernels: one invocation per result, or one workgroup with a tree.

use std::fmt::Write;

use wgrad_ir::{DType, DeviceCaps, Expr, ExprId, ReduceKernel, ReduceOp, Shape};

use crate::{
    Dispatch, KernelError,
    bindings::value_type,
    expr::{At, Emitter, outer_views},
    grid::Grid,
    index::{check_elements, check_iterations, collapse, write_coordinates},
};

const WHAT: &str = "a reduction";

/// Who computes one result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceVariant {
    /// One invocation; good for many results.
    Thread,
    /// A workgroup of that many invocations (a power of two); good for few, long results.
    Tree(u32),
}

/// Generates one dispatch with the variant that suits extents and device; none if there are no results.
pub(crate) fn generate(kernel: &ReduceKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    generate_as(kernel, caps, choose(kernel, caps))
}

/// The variant that suits extents and device.
fn choose(kernel: &ReduceKernel, caps: &DeviceCaps) -> ReduceVariant {
    let (outer, inner) = (kernel.outer.elements(), kernel.inner.elements());
    let most = caps.max_workgroup_invocations.min(caps.max_workgroup_bytes / 4).clamp(1, 256);
    let tree = |wanted: usize| {
        let size = wanted.next_power_of_two().min(most as usize) as u32;
        ReduceVariant::Tree(if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 })
    };
    if caps.software {
        // Barriers are dear where they are a switch between loops; they pay only if invocations would stand idle.
        return match (outer, inner) {
            // One invocation must not loop too often there (see `check_iterations`).
            (_, 200_000..) => tree(256),
            (..32, 256..) => tree(64),
            _ => ReduceVariant::Thread,
        };
    }
    let columns = kernel.exprs.iter().any(|node| match &node.expr {
        Expr::Load { map, .. } => {
            let (wall, strides) = (kernel.outer.rank(), &map.outer().strides);
            wall > 0 && strides[wall - 1] == 1 && strides.last() != Some(&1)
        }
        _ => false,
    });
    if inner < 32 || columns && outer >= 2048 {
        ReduceVariant::Thread
    } else {
        tree(inner.div_ceil(4).max(32))
    }
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
    let live = emitter.live(&wanted)?;
    let results = results(kernel, &mut emitter)?;

    let space: Shape = kernel.outer.iter().chain(kernel.inner.iter()).copied().collect();
    let wall = kernel.outer.rank();
    let axes = collapse(&space, &outer_views(&kernel.exprs, &live), &[wall]);
    let split = axes.iter().position(|a| a.from.start >= wall).unwrap_or(axes.len());
    let names: Vec<String> = (0..axes.len()).map(|d| format!("c{d}")).collect();
    let mut body = String::new();
    if inner > 0 {
        write_coordinates(&mut body, "o", &axes[..split], &names[..split]);
        write_coordinates(&mut body, "r", &axes[split..], &names[split..]);
        body += &emitter.emit(&wanted, &[], &At { axes: &axes, names: &names })?;
        let list: Vec<String> = wanted.iter().map(|v| format!("v{}", v.0)).collect();
        let _ = writeln!(body, "return Values({});", list.join(", "));
    } else {
        // Nothing to combine: the empty space has no addresses, and the results are the identity of a sum.
        body += "return Values();\n";
    }
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
    };
    let grid = Grid::fold(groups, caps.max_workgroups_per_dim)?;

    let mut source = String::new();
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    let _ = write!(
        source,
        "{results}const OUTER: u32 = {outer}u;\nconst INNER: u32 = {inner}u;\nconst SIZE: u32 = {size}u;\n\
         fn values(o: u32, r: u32) -> Values {{\n{body}}}\n\
         fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{text}",
        grid.number,
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
        combined.push(match out.op {
            ReduceOp::Sum => format!("a.s{n} + b.s{n}"),
            ReduceOp::Max => format!("max(a.s{n}, b.s{n})"),
            ReduceOp::Min => format!("min(a.s{n}, b.s{n})"),
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
