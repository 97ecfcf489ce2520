//! Convolutions: the bodies of matrix products, with hooks that find windows by index arithmetic. Rows are output channels, columns
//! places (of several images, where the result is by group), and the contraction runs over channels and taps.

use std::fmt::Write;

use wgrad_ir::{ConvKernel, DType, DeviceCaps, ExprId, View};

use crate::{
    Dispatch, KernelError, MatMulVariant,
    expr::{At, Emitter, outer_views},
    grid::Grid,
    index::{Axis, address, check_elements, check_iterations, collapse, integer, write_coordinates},
    unroll::unroll,
};

const WHAT: &str = "a convolution";

/// Generates one dispatch; none if there are no results. Only the direct and the tiled body suit.
pub(crate) fn generate(
    kernel: &ConvKernel,
    caps: &DeviceCaps,
    variant: Option<MatMulVariant>,
) -> Result<Vec<Dispatch>, KernelError> {
    match kernel.dtype {
        DType::F32 => {}
        DType::F64 => return Err(KernelError::F64 { what: WHAT }),
        other => return Err(KernelError::Inconsistent(format!("a convolution of {other}"))),
    }
    let (x, w, result) = (&kernel.x.view, &kernel.w.view, kernel.result());
    let results = result.elements();
    if results == 0 {
        return Ok(Vec::new());
    }
    check_elements(WHAT, results)?;
    check_elements("an operand of a convolution", x.shape.elements())?;
    check_elements("an operand of a convolution", w.shape.elements())?;
    let (m, k) = (w.shape[1], kernel.terms());
    check_iterations(caps, WHAT, k)?;
    let batches = if kernel.spec.by_group { x.shape[1] } else { x.shape[0] * x.shape[1] };
    let n = results / batches / m;

    let mut emitter = Emitter::new(WHAT, &kernel.exprs);
    let hooks = bases(kernel) + &loads(kernel, &mut emitter)? + &store(kernel, &mut emitter)?;
    let tiles = |rows: usize, columns: usize| batches * m.div_ceil(rows) * n.div_ceil(columns);
    let chosen = match variant {
        Some(variant @ (MatMulVariant::Direct { .. } | MatMulVariant::Tiled { .. })) => variant,
        _ if caps.software || caps.max_workgroup_invocations < 256 => {
            let rows = if m > 8 && tiles(64, 32) >= 8 { 8 } else { 1 };
            MatMulVariant::Direct { rows, quads: 1 }
        }
        _ => MatMulVariant::Tiled { block: if tiles(64, 64) >= 64 { 64 } else { 32 } },
    };
    let (text, tile, size, mut constants) = match chosen {
        MatMulVariant::Tiled { block } => {
            let constants = vec![("BLOCK", block.into()), ("PART", i64::from(block) / 16)];
            (include_str!("matmul/tiled.wgsl"), [block; 2], 256, constants)
        }
        MatMulVariant::Direct { rows, quads } | MatMulVariant::Subgroup { rows, quads } => {
            let step = [4, 2].into_iter().find(|s| k as i64 % s == 0).unwrap_or(1);
            let constants = vec![("STEP", step), ("ROWS", rows.into()), ("QUADS", quads.into())];
            (include_str!("matmul/direct.wgsl"), [8 * rows, 32 * quads], 64, constants)
        }
        MatMulVariant::Cooperative { .. } => {
            return Err(KernelError::Inconsistent(format!("{WHAT} by cooperative matrices")));
        }
    };
    constants.push(("SUMS", 0));
    let [tiles_m, tiles_n] = [m.div_ceil(tile[0] as usize), n.div_ceil(tile[1] as usize)];
    let grid = Grid::fold(batches.saturating_mul(tiles_m * tiles_n), caps.max_workgroups_per_dim)?;

    let mut source = String::new();
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    for (name, value) in [("M", m as i64), ("N", n as i64), ("K", k as i64)].iter().chain(&constants) {
        let _ = writeln!(source, "const {name}: i32 = {value}i;");
    }
    let _ = write!(
        source,
        "const TILES_M: u32 = {tiles_m}u;\nconst TILES_N: u32 = {tiles_n}u;\nconst BATCHES: u32 = {batches}u;\n\
         const A_ALONG_K: bool = true;\nconst B_ALONG_K: bool = false;\n{hooks}\
         fn group_number(group: vec3<u32>) -> u32 {{ return {}; }}\n{}",
        grid.number,
        unroll(text, &constants),
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: emitter.bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size: size,
        subgroups: false,
    }])
}

/// `base_a`, `base_b`: where filters and operand of a matrix begin.
fn bases(kernel: &ConvKernel) -> String {
    let (x, w) = (&kernel.x.view, &kernel.w.view);
    let groups = x.shape[1];
    let (image, group) = match kernel.spec.by_group {
        true => ("0i".to_owned(), "i32(batch)".to_owned()),
        false if groups == 1 => ("i32(batch)".to_owned(), "0i".to_owned()),
        false => (format!("i32(batch / {groups}u)"), format!("i32(batch % {groups}u)")),
    };
    format!(
        "fn base_a(batch: u32) -> i32 {{ return {} + {group} * {}; }}\n\
         fn base_b(batch: u32) -> i32 {{ return {} + {image} * {} + {group} * {}; }}\n",
        integer(w.offset),
        integer(w.strides[0]),
        integer(x.offset),
        integer(x.strides[0]),
        integer(x.strides[1]),
    )
}

/// `load_a` of a filter's term, and `load_b` of what an output sees by a term: zero beyond the edge.
fn loads(kernel: &ConvKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let (x, w) = (&kernel.x.view, &kernel.w.view);
    let head = [
        "fn load_a(base: i32, row: i32, k: i32) -> f32 {\n",
        "fn load_b(base: i32, k: i32, col: i32) -> f32 {\n",
    ];
    if kernel.terms() == 0 {
        // Nothing is loaded, and the operands may have no memory to bind.
        return Ok(format!("{}return 0.0f;\n}}\n{}return 0.0f;\n}}\n", head[0], head[1]));
    }
    let mut out = head[0].to_owned();
    let terms = View {
        shape: w.shape[2..].into(),
        strides: w.strides[2..].iter().copied().collect(),
        offset: 0,
        mask: None,
    };
    let axes = collapse(&terms.shape, &[&terms], &[]);
    let names: Vec<String> = (0..axes.len()).map(|d| format!("t{d}")).collect();
    write_coordinates(&mut out, "u32(k)", &axes, &names);
    let at = address(&terms, &axes, &names);
    let at = format!("(base + row * {} + {at})", integer(w.strides[1]));
    let _ = writeln!(out, "return {};\n}}", emitter.load(kernel.w.arg, kernel.operands[1], &at)?);

    out += head[1];
    let result = kernel.result();
    let images = kernel.spec.by_group;
    // Coordinates of the term and of the place; those of extent 1 are 0.
    let term_names = coordinates(&mut out, "u32(k)", "t", &w.shape[2..]);
    let first = if images { 2 } else { 3 };
    let place_names = coordinates(&mut out, "u32(col)", "p", &result[first..]);
    let mut sum = vec!["base".to_owned()];
    let mut term = |name: &Option<String>, stride: i64| {
        if let Some(name) = name {
            sum.push(format!("{name} * {}", integer(stride)));
        }
    };
    term(&term_names[0], x.strides[2]);
    if images {
        term(&place_names[0], x.strides[0]);
    }
    let mut inside: Vec<String> = Vec::new();
    for (d, axis) in kernel.spec.axes.iter().enumerate() {
        let (tap, place) = (&term_names[1 + d], &place_names[3 + d - first]);
        let mut at = vec![integer(-axis.before)];
        at.extend(place.iter().map(|p| format!("{p} * {}i", axis.stride)));
        at.extend(tap.iter().map(|t| format!("{t} * {}i", axis.dilation)));
        let _ = writeln!(out, "let i{d} = {};", at.join(" + "));
        let extent = x.shape[3 + d];
        let reach = (result[3 + d] - 1) * axis.stride + (w.shape[3 + d] - 1) * axis.dilation;
        if axis.before > 0 {
            inside.push(format!("i{d} >= 0i"));
        }
        if reach as i64 - axis.before >= extent as i64 {
            inside.push(format!("i{d} < {extent}i"));
        }
        sum.push(format!("i{d} * {}", integer(x.strides[3 + d])));
    }
    let value = emitter.load(kernel.x.arg, kernel.operands[0], &format!("({})", sum.join(" + ")))?;
    if inside.is_empty() {
        let _ = writeln!(out, "return {value};\n}}");
    } else {
        let _ = writeln!(out, "if ({}) {{ return {value}; }}\nreturn 0.0f;\n}}", inside.join(" && "));
    }
    Ok(out)
}

/// Splits a number into coordinates; those of extent 1 have no name.
fn coordinates(out: &mut String, number: &str, prefix: &str, extents: &[usize]) -> Vec<Option<String>> {
    let axes: Vec<Axis> = extents
        .iter()
        .enumerate()
        .filter(|(_, n)| **n != 1)
        .map(|(d, &len)| Axis { from: d..d + 1, len })
        .collect();
    let names: Vec<String> = axes.iter().map(|a| format!("{prefix}{}", a.from.start)).collect();
    write_coordinates(out, number, &axes, &names);
    (0..extents.len())
        .map(|d| axes.iter().position(|a| a.from.start == d).map(|n| names[n].clone()))
        .collect()
}

/// `store_c(batch, row, col, product)`: the epilogue.
fn store(kernel: &ConvKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let wanted: Vec<ExprId> = kernel.stores.iter().map(|s| s.value).collect();
    let live = emitter.live(&wanted)?;
    let mut views = outer_views(&kernel.exprs, &live);
    views.extend(kernel.stores.iter().map(|s| &s.view));
    let space = kernel.result();
    let row = if kernel.spec.by_group { 1 } else { 2 };
    let axes = collapse(&space, &views, &[row, row + 1]);
    let name =
        |(n, axis): (usize, &Axis)| if axis.from.start == row { "row".into() } else { format!("c{n}") };
    let names: Vec<String> = axes.iter().enumerate().map(name).collect();
    let before = axes.iter().take_while(|a| a.from.start < row).count();
    let after = axes.iter().take_while(|a| a.from.start <= row).count();
    let mut body = String::new();
    write_coordinates(&mut body, "batch", &axes[..before], &names[..before]);
    write_coordinates(&mut body, "u32(col)", &axes[after..], &names[after..]);
    let dtype_of = |value: ExprId| kernel.exprs[value.index()].dtype;
    emitter.share_words(kernel.stores.iter().map(|s| (s.arg, dtype_of(s.value), false)));
    body += &emitter.emit(&wanted, &[], &At { axes: &axes, names: &names })?;
    for store in &kernel.stores {
        let at = address(&store.view, &axes, &names);
        let value = format!("v{}", store.value.0);
        let _ = writeln!(body, "{}", emitter.store(store.arg, dtype_of(store.value), &at, &value)?);
    }
    Ok(format!("fn store_c(batch: u32, row: i32, col: i32, product: f32) {{\n{body}}}\n"))
}
