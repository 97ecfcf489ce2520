//! Sums of rows by id, in a fixed order and without atomics: clear, link equal ids, sum along the links.

use wgrad_ir::{DType, DeviceCaps, ScatterAddKernel};

use crate::{
    Binding, Dispatch, KernelError, Resource,
    bindings::value_type,
    grid::Grid,
    index::{check_elements, check_iterations},
};

const WHAT: &str = "a scatter";

/// Generates up to three dispatches, to run in order.
pub(crate) fn generate(kernel: &ScatterAddKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    let element = value_type(WHAT, kernel.dtype)?;
    if kernel.dtype == DType::Bool || !kernel.ids_dtype.is_int() {
        return Err(KernelError::Inconsistent("a scatter of bool, or by ids that are not integers".into()));
    }
    let id = value_type(WHAT, kernel.ids_dtype)?;
    let (rows, row_len, count) = (kernel.rows, kernel.row_len, kernel.count);
    let results = rows.saturating_mul(row_len);
    let sources = count.saturating_mul(row_len);
    check_elements(WHAT, results)?;
    check_elements("the source of a scatter", sources)?;
    check_elements("the ids of a scatter", count.saturating_mul(2))?;
    check_iterations(caps, WHAT, count / 2)?;
    if results == 0 {
        return Ok(Vec::new());
    }
    let size = 64u32.min(caps.max_workgroup_invocations.max(1));
    let last = rows - 1;
    let row_of = match kernel.ids_dtype {
        DType::I32 => format!("u32(clamp(id, 0i, {last}i))"),
        _ => format!("min(id, {last}u)"),
    };
    // Which of the four buffers a step binds: out, ids, source, chain; `Some(true)` where it writes.
    let names = [("out", element), ("ids", id), ("source", element), ("chain", "u32")];
    let step = |text: &str, invocations: usize, uses: [Option<bool>; 4]| {
        let grid = Grid::fold(invocations.div_ceil(size as usize), caps.max_workgroups_per_dim)?;
        let (mut source, mut bindings) = (String::new(), Vec::new());
        for (arg, (used, (name, ty))) in uses.into_iter().zip(names).enumerate() {
            let Some(writable) = used else { continue };
            let access = if writable { "read_write" } else { "read" };
            source += &format!(
                "@group(0) @binding({}) var<storage, {access}> {name}: array<{ty}>;\n",
                bindings.len()
            );
            bindings.push(Binding { resource: Resource::Arg(arg as u32), writable });
        }
        source += &format!(
            "alias Element = {element};\nalias Id = {id};\nconst ROWS: u32 = {rows}u;\nconst ROW_LEN: u32 = {row_len}u;\n\
             const COUNT: u32 = {count}u;\nconst SIZE: u32 = {size}u;\nfn row_of(id: Id) -> u32 {{ return {row_of}; }}\n\
             fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{text}",
            grid.number
        );
        Ok(Dispatch {
            source: source.into(),
            bindings,
            workgroups: grid.workgroups,
            workgroup_size: size,
            subgroups: false,
        })
    };
    let mut steps = vec![step(include_str!("scatter/clear.wgsl"), results, [Some(true), None, None, None])?];
    if count > 0 {
        steps.push(step(include_str!("scatter/link.wgsl"), count, [None, Some(false), None, Some(true)])?);
        steps.push(step(
            include_str!("scatter/sum.wgsl"),
            sources,
            [Some(true), Some(false), Some(false), Some(false)],
        )?);
    }
    Ok(steps)
}
