//! Positions that put rows in order: blocks by counting, then runs of twice the length by merging, each element finding its own place.

use wgrad_ir::{DType, DeviceCaps, SortKernel};

use crate::{Binding, Dispatch, KernelError, Resource, grid::Grid, index::check_elements};

const WHAT: &str = "a sort";

/// Elements that are sorted by counting.
const BLOCK: usize = 64;

/// Generates one dispatch, and one for each doubling of the runs from [`BLOCK`] to the row's length, to run in order. They write
/// result and scratch by turns, the last one the result.
pub(crate) fn generate(kernel: &SortKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    let elements = kernel.rows.saturating_mul(kernel.len);
    check_elements(WHAT, elements)?;
    if elements == 0 {
        return Ok(Vec::new());
    }
    // Elements are read as words.
    let key = match kernel.dtype {
        DType::F64 => return Err(KernelError::F64 { what: WHAT }),
        DType::F32 => include_str!("sort/float_key.wgsl"),
        DType::I32 => "fn ascending(word: u32) -> u32 { return word ^ 0x80000000u; }\n",
        DType::F16 | DType::BF16 => return Err(KernelError::Inconsistent("a sort of 16-bit floats".into())),
        DType::U32 | DType::U8 | DType::Bool => "fn ascending(word: u32) -> u32 { return word; }\n",
    };
    let order = if kernel.descending { "~ascending(word)" } else { "ascending(word)" };
    let size = 64u32.min(caps.max_workgroup_invocations.max(1));
    let grid = Grid::fold(elements.div_ceil(size as usize), caps.max_workgroups_per_dim)?;
    let dispatch = |text: &str, width: usize, bindings: Vec<(&str, u32, bool)>| {
        let mut source = String::new();
        for (n, (name, _, writable)) in bindings.iter().enumerate() {
            let access = if *writable { "read_write" } else { "read" };
            source += &format!("@group(0) @binding({n}) var<storage, {access}> {name}: array<u32>;\n");
        }
        source += &format!(
            "const LEN: u32 = {}u;\nconst ELEMENTS: u32 = {elements}u;\nconst WIDTH: u32 = {width}u;\nconst SIZE: u32 = {size}u;\n{key}\
             fn key_of(word: u32) -> u32 {{ return {order}; }}\n\
             fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{text}",
            kernel.len, grid.number
        );
        let bind = |(_, arg, writable)| Binding { resource: Resource::Arg(arg), writable };
        Dispatch {
            source: source.into(),
            bindings: bindings.into_iter().map(bind).collect(),
            workgroups: grid.workgroups,
            workgroup_size: size,
            subgroups: false,
        }
    };
    let widths: Vec<usize> =
        std::iter::successors(Some(BLOCK), |w| w.checked_mul(2)).take_while(|&w| w < kernel.len).collect();
    let (result, source, scratch) = (0, 1, 2);
    // The last of so many dispatches writes the result.
    let mut to = if widths.len().is_multiple_of(2) { result } else { scratch };
    let block = include_str!("sort/block.wgsl");
    let mut dispatches =
        vec![dispatch(block, BLOCK, vec![("elements", source, false), ("sorted", to, true)])];
    for width in widths {
        let from = to;
        to = result + scratch - from;
        let bindings = vec![("elements", source, false), ("runs", from, false), ("sorted", to, true)];
        dispatches.push(dispatch(include_str!("sort/merge.wgsl"), width, bindings));
    }
    Ok(dispatches)
}
