//! Cumulate kernels: sums so far and linear recurrences, one invocation or one workgroup per line.
//!
//! A step takes `y` to `factor * y + term`; two steps after each other are one such step again, which is what lets a workgroup
//! compose them in any grouping.

use std::fmt::Write;

use wgrad_ir::{CumulateKernel, CumulateOp, DType, DeviceCaps, Operand, Shape, View};

use crate::{
    Dispatch, KernelError,
    bindings::{Bindings, value_type},
    grid::Grid,
    index::{address, check_elements, check_iterations, collapse, write_coordinates},
};

const WHAT: &str = "a cumulation";

/// Who walks one line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CumulateVariant {
    /// One invocation; good for many lines.
    Thread,
    /// A workgroup of that many invocations (a power of two); good for few, long lines.
    Group(u32),
}

/// Generates one dispatch with the variant that suits extents and device; none if there are no elements.
pub(crate) fn generate(kernel: &CumulateKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    generate_as(kernel, caps, choose(kernel, caps))
}

fn choose(kernel: &CumulateKernel, caps: &DeviceCaps) -> CumulateVariant {
    let (lines, len) = (kernel.lines.elements(), kernel.len);
    let most = caps.max_workgroup_invocations.min(caps.max_workgroup_bytes / 16).clamp(1, 256);
    let group =
        CumulateVariant::Group(if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 });
    if caps.software {
        // Barriers are dear there; they pay where one invocation would loop too often.
        return if len > 60_000 { group } else { CumulateVariant::Thread };
    }
    if len < 64 || lines >= 4096 { CumulateVariant::Thread } else { group }
}

/// As [`generate`], with a given variant.
pub(crate) fn generate_as(
    kernel: &CumulateKernel,
    caps: &DeviceCaps,
    variant: CumulateVariant,
) -> Result<Vec<Dispatch>, KernelError> {
    let (lines, len) = (kernel.lines.elements(), kernel.len);
    check_elements(WHAT, lines.saturating_mul(len))?;
    if lines * len == 0 {
        return Ok(Vec::new());
    }
    if kernel.dtype == DType::Bool || kernel.dtype.is_half() {
        let dtype = kernel.dtype;
        return Err(KernelError::Inconsistent(format!("a cumulation of {dtype}; cast to f32 and back")));
    }
    let ty = value_type(WHAT, kernel.dtype)?;
    let linear = kernel.op == CumulateOp::Linear;
    let (text, size, groups) = match variant {
        CumulateVariant::Thread => {
            let size = 64u32.min(caps.max_workgroup_invocations.max(1));
            check_iterations(caps, WHAT, len / 4 + 4)?;
            (include_str!("cumulate/thread.wgsl"), size, lines.div_ceil(size as usize))
        }
        CumulateVariant::Group(size) => {
            check_iterations(caps, WHAT, len.div_ceil(size as usize) * (size.ilog2() as usize + 1))?;
            (include_str!("cumulate/group.wgsl"), size, lines)
        }
    };
    let grid = Grid::fold(groups, caps.max_workgroups_per_dim)?;

    let space: Shape = kernel.lines.iter().copied().chain([len]).collect();
    let operands = [Some(&kernel.terms), kernel.factors.as_ref(), Some(&kernel.out)];
    let views: Vec<&View> = operands.into_iter().flatten().map(|o| &o.view).collect();
    let wall = kernel.lines.rank();
    let axes = collapse(&space, &views, &[wall]);
    let split = axes.iter().position(|a| a.from.start >= wall).unwrap_or(axes.len());
    let names: Vec<String> = (0..axes.len()).map(|d| format!("c{d}")).collect();
    let mut coordinates = String::new();
    write_coordinates(&mut coordinates, "l", &axes[..split], &names[..split]);
    write_coordinates(&mut coordinates, "i", &axes[split..], &names[split..]);
    let mut bindings = Bindings::default();
    let mut at = |operand: &Operand, writable| -> Result<String, KernelError> {
        let buffer = bindings.arg(operand.arg, ty, writable)?;
        Ok(format!("{buffer}[{}]", address(&operand.view, &axes, &names)))
    };
    let term = at(&kernel.terms, false)?;
    let factor = kernel.factors.as_ref().map(|f| at(f, false)).transpose()?;
    let out = at(&kernel.out, true)?;
    let mut source = String::new();
    bindings.write(&mut source);
    let (fields, step, first, apply, compose) = if linear {
        let factor =
            factor.ok_or_else(|| KernelError::Inconsistent("a recurrence without factors".into()))?;
        (
            "factor: Value, term: Value",
            format!("Step({factor}, {term})"),
            "Step(Value(), s.term)",
            "s.factor * y + s.term",
            "Step(b.factor * a.factor, b.factor * a.term + b.term)",
        )
    } else {
        ("term: Value", format!("Step({term})"), "s", "y + s.term", "Step(a.term + b.term)")
    };
    let _ = write!(
        source,
        "alias Value = {ty};\nstruct Step {{ {fields} }}\n\
         const LINES: u32 = {lines}u;\nconst LEN: u32 = {len}u;\nconst SIZE: u32 = {size}u;\n\
         fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n\
         fn step_at(l: u32, i: u32) -> Step {{\n{coordinates}return {step};\n}}\n\
         fn first(s: Step) -> Step {{ return {first}; }}\n\
         fn apply(y: Value, s: Step) -> Value {{ return {apply}; }}\n\
         fn compose(a: Step, b: Step) -> Step {{ return {compose}; }}\n\
         fn store(l: u32, i: u32, value: Value) {{\n{coordinates}{out} = value;\n}}\n{text}",
        grid.number,
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size: size,
        subgroups: false,
    }])
}
