//! Matrix products: which body suits, and the constants and hooks that complete it.

use std::fmt::Write;

use wgrad_ir::{DType, DeviceCaps, ExprId, MatMulKernel, View};

use crate::{
    Dispatch, KernelError,
    bindings::storage_type,
    expr::{At, Emitter, outer_views, to_storage},
    grid::Grid,
    index::{Axis, address, check_elements, check_iterations, collapse, integer, write_coordinates},
    unroll::unroll,
};

const WHAT: &str = "a matrix product";

/// How a matrix product is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MatMulVariant {
    /// Every invocation loads what it needs: `rows` x `4 quads` results each.
    Direct {
        /// Rows of one invocation.
        rows: u32,
        /// Columns of one invocation, in fours.
        quads: u32,
    },
    /// A subgroup of 8 shares rows by broadcasts: `rows` (a multiple of 8) x `32 quads` results.
    Subgroup {
        /// Rows of one subgroup.
        rows: u32,
        /// Columns of one subgroup, in groups of 32.
        quads: u32,
    },
    /// Tiles of `block` x `block` results (a multiple of 16) in workgroup memory.
    Tiled {
        /// Rows and columns of one workgroup.
        block: u32,
    },
}

/// Generates one dispatch with the variant that suits extents and device; none if there are no results.
pub(crate) fn generate(kernel: &MatMulKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    generate_as(kernel, caps, choose(kernel, caps))
}

fn choose(kernel: &MatMulKernel, caps: &DeviceCaps) -> MatMulVariant {
    let batch = kernel.batch.elements();
    let tiles = |rows: usize, cols: usize| batch * kernel.m.div_ceil(rows) * kernel.n.div_ceil(cols);
    if caps.software || caps.max_workgroup_invocations < 256 {
        // Large tiles reuse more, but they must leave work for every core, and not hang over the edge.
        if caps.subgroup_size == 8 {
            return match (kernel.m, kernel.n) {
                (m, n) if m > 16 && n > 32 && tiles(32, 64) >= 4 => {
                    MatMulVariant::Subgroup { rows: 32, quads: 2 }
                }
                (m, _) if m > 8 => MatMulVariant::Subgroup { rows: 16, quads: 1 },
                _ => MatMulVariant::Subgroup { rows: 8, quads: 1 },
            };
        }
        return if kernel.m > 8 && tiles(64, 64) >= 8 {
            MatMulVariant::Direct { rows: 8, quads: 2 }
        } else {
            MatMulVariant::Direct { rows: 1, quads: 1 }
        };
    }
    let fits = |block: u32| caps.max_workgroup_bytes >= 2 * 16 * (block + 1) * 4;
    if tiles(128, 128) >= 256 && fits(128) {
        MatMulVariant::Tiled { block: 128 }
    } else if tiles(64, 64) >= 64 {
        MatMulVariant::Tiled { block: 64 }
    } else {
        MatMulVariant::Tiled { block: 32 }
    }
}

/// As [`generate`], with a given variant.
pub(crate) fn generate_as(
    kernel: &MatMulKernel,
    caps: &DeviceCaps,
    variant: MatMulVariant,
) -> Result<Vec<Dispatch>, KernelError> {
    let (m, n, k, batches) = (kernel.m, kernel.n, kernel.k, kernel.batch.elements());
    match kernel.dtype {
        DType::F32 => {}
        DType::F64 => return Err(KernelError::F64 { what: WHAT }),
        other => return Err(KernelError::Inconsistent(format!("a matrix product of {other}"))),
    }
    let results = batches.saturating_mul(m).saturating_mul(n);
    if results == 0 {
        return Ok(Vec::new());
    }
    check_elements(WHAT, results)?;
    check_iterations(caps, WHAT, k)?;
    check_elements("an operand of a matrix product", kernel.a.view.shape.elements())?;
    check_elements("an operand of a matrix product", kernel.b.view.shape.elements())?;

    let mut emitter = Emitter::new(WHAT, &kernel.exprs);
    // Without a contraction nothing is loaded, and the operands have no memory to bind.
    let (load_a, load_b) = if k == 0 {
        ("0.0f".to_owned(), "0.0f".to_owned())
    } else {
        let a = emitter.bindings.arg(kernel.a.arg, "f32", false)?;
        let b = emitter.bindings.arg(kernel.b.arg, "f32", false)?;
        (
            format!("{a}[base + {}]", inner(&kernel.a.view, "row", "k")),
            format!("{b}[base + {}]", inner(&kernel.b.view, "k", "col")),
        )
    };
    let step = [4, 2].into_iter().find(|s| k as i64 % s == 0).unwrap_or(1);
    let (text, rows, cols, workgroup_size, constants) = match variant {
        MatMulVariant::Direct { rows, quads } => (
            include_str!("matmul/direct.wgsl"),
            8 * rows,
            32 * quads,
            64,
            format!("const STEP: i32 = {step}i;\nconst ROWS: i32 = {rows}i;\nconst QUADS: i32 = {quads}i;\n"),
        ),
        MatMulVariant::Subgroup { rows, quads } => (
            include_str!("matmul/subgroup.wgsl"),
            rows,
            32 * quads,
            8,
            format!("const STEP: i32 = {step}i;\nconst ROWS: i32 = {rows}i;\nconst QUADS: i32 = {quads}i;\n"),
        ),
        MatMulVariant::Tiled { block } => {
            let rank = kernel.a.view.shape.rank();
            let along = |view: &View, k_axis: usize| view.strides[k_axis].abs() == 1;
            (
                include_str!("matmul/tiled.wgsl"),
                block,
                block,
                256,
                format!(
                    "const BLOCK: i32 = {block}i;\nconst PART: i32 = {}i;\nconst A_ALONG_K: bool = {};\n\
                     const B_ALONG_K: bool = {};\n",
                    block / 16,
                    along(&kernel.a.view, rank - 1),
                    along(&kernel.b.view, rank - 2) && !along(&kernel.b.view, rank - 1),
                ),
            )
        }
    };
    let unrolled = match variant {
        MatMulVariant::Direct { rows, quads } | MatMulVariant::Subgroup { rows, quads } => {
            unroll(text, &[("STEP", step), ("ROWS", rows.into()), ("QUADS", quads.into())])
        }
        MatMulVariant::Tiled { block } => unroll(text, &[("PART", i64::from(block) / 16)]),
    };
    let (tiles_m, tiles_n) = (m.div_ceil(rows as usize), n.div_ceil(cols as usize));
    let grid = Grid::fold(batches.saturating_mul(tiles_m * tiles_n), caps.max_workgroups_per_dim)?;

    let epilogue = epilogue(kernel, &mut emitter)?;
    let mut source = String::new();
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    let _ = write!(
        source,
        "const M: i32 = {m}i;\nconst N: i32 = {n}i;\nconst K: i32 = {k}i;\nconst TILES_M: u32 = {tiles_m}u;\n\
         const TILES_N: u32 = {tiles_n}u;\nconst BATCHES: u32 = {batches}u;\n{constants}\
         fn base_a(batch: u32) -> i32 {{\n{}}}\nfn base_b(batch: u32) -> i32 {{\n{}}}\n\
         fn load_a(base: i32, row: i32, k: i32) -> f32 {{ return {load_a}; }}\n\
         fn load_b(base: i32, k: i32, col: i32) -> f32 {{ return {load_b}; }}\n\
         fn store_c(batch: u32, row: i32, col: i32, product: f32) {{\n{epilogue}}}\n\
         fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{unrolled}",
        base(&kernel.a.view),
        base(&kernel.b.view),
        grid.number,
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: emitter.bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size,
        subgroups: matches!(variant, MatMulVariant::Subgroup { .. }),
    }])
}

/// The address of a matrix's element, relative to its batch.
fn inner(view: &View, first: &str, second: &str) -> String {
    let rank = view.shape.rank();
    format!("{first} * {} + {second} * {}", integer(view.strides[rank - 2]), integer(view.strides[rank - 1]))
}

/// The body of a function that finds the first address of matrix `batch`.
fn base(view: &View) -> String {
    let rank = view.shape.rank() - 2;
    let batches = View {
        shape: view.shape[..rank].into(),
        strides: view.strides[..rank].iter().copied().collect(),
        offset: view.offset,
        mask: None,
    };
    let axes = collapse(&batches.shape, &[&batches], &[]);
    let names: Vec<String> = (0..axes.len()).map(|d| format!("c{d}")).collect();
    let mut out = String::new();
    write_coordinates(&mut out, "batch", &axes, &names);
    let _ = writeln!(out, "return {};", address(&batches, &axes, &names));
    out
}

/// The body of `store_c`: the epilogue at one element of the product.
fn epilogue(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let wanted: Vec<ExprId> = kernel.stores.iter().map(|s| s.value).collect();
    let live = emitter.live(&wanted)?;
    let mut views = outer_views(&kernel.exprs, &live);
    views.extend(kernel.stores.iter().map(|s| &s.view));
    let space = kernel.space();
    let row = space.rank() - 2;
    let axes = collapse(&space, &views, &[row, row + 1]);
    let name = |(n, axis): (usize, &Axis)| match axis.from.start {
        d if d < row => format!("c{n}"),
        d if d == row => "row".into(),
        _ => "col".into(),
    };
    let names: Vec<String> = axes.iter().enumerate().map(name).collect();
    let batches = axes.iter().take_while(|a| a.from.start < row).count();
    let mut out = String::new();
    write_coordinates(&mut out, "batch", &axes[..batches], &names[..batches]);
    out += &emitter.emit(&wanted, &[], &At { axes: &axes, names: &names })?;
    for store in &kernel.stores {
        let dtype = kernel.exprs[store.value.index()].dtype;
        let buffer = emitter.bindings.arg(store.arg, storage_type(WHAT, dtype)?, true)?;
        let at = address(&store.view, &axes, &names);
        let _ = writeln!(out, "{buffer}[{at}] = {};", to_storage(dtype, &format!("v{}", store.value.0)));
    }
    Ok(out)
}
