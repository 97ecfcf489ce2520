//! Matrix products: which body suits, and the constants and hooks that complete it.

use std::fmt::Write;

pub(crate) mod cooperative;
mod epilogue;
mod operands;
mod split;
mod sums;

use wgrad_ir::{DType, DeviceCaps, MatMulKernel, View};

use crate::{
    Dispatch, KernelError,
    expr::Emitter,
    grid::Grid,
    index::{check_elements, check_iterations},
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
    /// A subgroup of 8 shares rows by shuffles: `rows` (8, 16 or 32) x `32 quads` results.
    Subgroup {
        /// Rows of one subgroup: 8, 16 or 32.
        rows: u32,
        /// Columns of one subgroup, in groups of 32.
        quads: u32,
    },
    /// Tiles of `block` x `block` results (a multiple of 16) in workgroup memory.
    Tiled {
        /// Rows and columns of one workgroup.
        block: u32,
    },
    /// Tiles of 64 x 64 results by cooperative matrices, for adapters that have them.
    Cooperative {
        /// Rows and columns of a matrix: 8 or 16.
        size: u32,
        /// Invocations of a subgroup: 16, 32 or 64.
        subgroup: u32,
    },
}

/// Generates one dispatch with the variant that suits extents and device, or several where the contraction is split; none if there are
/// no results.
pub(crate) fn generate(kernel: &MatMulKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    match kernel.split {
        Some(split) => split::generate(kernel, split, caps, None),
        None => generate_as(kernel, caps, choose(kernel, caps)),
    }
}

fn choose(kernel: &MatMulKernel, caps: &DeviceCaps) -> MatMulVariant {
    let batch = kernel.batch.elements();
    let tiles = |rows: usize, cols: usize| batch * kernel.m.div_ceil(rows) * kernel.n.div_ceil(cols);
    if caps.software || caps.max_workgroup_invocations < 256 {
        // Large tiles reuse more, but they must leave work for every core, and not hang over the edge.
        if caps.subgroup_size == 8 {
            // 16 x 64 results: wider rows of B save more misses than taller tiles save loads, and 32 x 64 take half a second to
            // compile (measured with Mesa 22.3).
            return match (kernel.m, kernel.n) {
                (m, n) if m > 8 && n > 32 && tiles(16, 64) >= 4 => {
                    MatMulVariant::Subgroup { rows: 16, quads: 2 }
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
    if let Some(split) = kernel.split {
        return split::generate(kernel, split, caps, Some(variant));
    }
    let (m, n, k, batches) = (kernel.m, kernel.n, kernel.k, kernel.batch.elements());
    match kernel.dtype {
        DType::F32 => {}
        DType::F64 => return Err(KernelError::F64 { what: WHAT }),
        other => return Err(KernelError::Inconsistent(format!("a matrix product of {other}"))),
    }
    let results = batches.saturating_mul(m).saturating_mul(n);
    if results == 0 {
        return sums::alone(kernel, caps);
    }
    check_elements(WHAT, results)?;
    check_iterations(caps, WHAT, k)?;
    let mut emitter = Emitter::new(WHAT, &kernel.exprs);
    let step = [4, 2].into_iter().find(|s| k as i64 % s == 0).unwrap_or(1);
    let mut body = match variant {
        MatMulVariant::Direct { rows, quads } => Body {
            hooks: singles(kernel, &mut emitter)?,
            constants: vec![("STEP", step), ("ROWS", rows.into()), ("QUADS", quads.into())],
            text: include_str!("matmul/direct.wgsl"),
            tile: [8 * rows, 32 * quads],
            size: 64,
        },
        MatMulVariant::Subgroup { rows, quads } => {
            let operands = operands::quads(kernel, &mut emitter, rows as usize)?;
            Body {
                hooks: operands.text
                    + &epilogue::quad(kernel, &mut emitter)?
                    + &sums::quad(kernel, &mut emitter)?,
                constants: vec![
                    ("ROWS", rows.into()),
                    ("QUADS", quads.into()),
                    ("PARTS", i64::from(rows) / 8),
                    ("STEPS", 32 / i64::from(rows)),
                    ("REST", i64::from(rows) - 1),
                    ("ALONG_K", operands.a_along_k.into()),
                    ("ALONG_ROWS", (!operands.a_along_k).into()),
                ],
                text: include_str!("matmul/subgroup.wgsl"),
                tile: [rows, 32 * quads],
                size: 8,
            }
        }
        MatMulVariant::Tiled { block } => Body {
            hooks: sides(kernel) + &singles(kernel, &mut emitter)?,
            constants: vec![("BLOCK", block.into()), ("PART", i64::from(block) / 16)],
            text: include_str!("matmul/tiled.wgsl"),
            tile: [block; 2],
            size: 256,
        },
        MatMulVariant::Cooperative { size, subgroup } => {
            cooperative::body(kernel, caps, &mut emitter, (size, subgroup))?
        }
    };
    body.constants.push(("SUMS", kernel.column_sums.is_some().into()));
    let [tiles_m, tiles_n] = [m.div_ceil(body.tile[0] as usize), n.div_ceil(body.tile[1] as usize)];
    let grid = Grid::fold(batches.saturating_mul(tiles_m * tiles_n), caps.max_workgroups_per_dim)?;

    let is_cooperative = matches!(variant, MatMulVariant::Cooperative { .. });
    let mut source = if is_cooperative { cooperative::ENABLE.to_owned() } else { String::new() };
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    for (name, value) in [("M", m as i64), ("N", n as i64), ("K", k as i64)].iter().chain(&body.constants) {
        let _ = writeln!(source, "const {name}: i32 = {value}i;");
    }
    let _ = write!(
        source,
        "const TILES_M: u32 = {tiles_m}u;\nconst TILES_N: u32 = {tiles_n}u;\nconst BATCHES: u32 = {batches}u;\n{}\
         fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{}",
        body.hooks,
        grid.number,
        unroll(body.text, &body.constants),
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: emitter.bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size: body.size,
        subgroups: is_cooperative || matches!(variant, MatMulVariant::Subgroup { .. }),
    }])
}

/// The hooks of the bodies that load and store one element at a time.
fn singles(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let operands = operands::single(kernel, emitter)?;
    Ok(operands + &epilogue::single(kernel, emitter)? + &sums::single(kernel, emitter)?)
}

/// Along which axis invocations walk that load a tile of an operand: the one on which it is contiguous.
fn sides(kernel: &MatMulKernel) -> String {
    let rank = kernel.a.view.shape.rank();
    let along = |view: &View, k_axis: usize| view.strides[k_axis].abs() == 1;
    let a_along_k = along(&kernel.a.view, rank - 1);
    let b_along_k = along(&kernel.b.view, rank - 2) && !along(&kernel.b.view, rank - 1);
    format!("const A_ALONG_K: bool = {a_along_k};\nconst B_ALONG_K: bool = {b_along_k};\n")
}

/// What a variant brings to the text.
struct Body {
    hooks: String,
    constants: Vec<(&'static str, i64)>,
    text: &'static str,
    /// Rows and columns of one workgroup.
    tile: [u32; 2],
    size: u32,
}
