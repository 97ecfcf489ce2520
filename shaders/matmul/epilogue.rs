//! What follows a product elementwise, as a hook: at one element, or at four neighbours of a row.

use std::fmt::Write;

use wgrad_ir::{DType, Expr, ExprId, MatMulKernel};

use super::WHAT;
use crate::{
    KernelError,
    bindings::value_type,
    expr::{At, Emitter, outer_views},
    index::{Axis, address, collapse, write_coordinates},
    wide::{Lanes, is_wide, wide_loads},
};

/// The epilogue's space as the hook sees it.
struct Place {
    axes: Vec<Axis>,
    names: Vec<String>,
    /// Statements that find the batch's coordinates.
    start: String,
}

fn place(kernel: &MatMulKernel, live: &[bool]) -> Place {
    let mut views = outer_views(&kernel.exprs, live);
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
    let mut start = String::new();
    write_coordinates(&mut start, "batch", &axes[..batches], &names[..batches]);
    Place { axes, names, start }
}

fn wanted(kernel: &MatMulKernel) -> Vec<ExprId> {
    kernel.stores.iter().map(|s| s.value).collect()
}

fn dtype(kernel: &MatMulKernel, value: ExprId) -> DType {
    kernel.exprs[value.index()].dtype
}

/// `store_c(batch, row, col, product)`.
pub(super) fn single(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let live = emitter.live(&wanted(kernel))?;
    let Place { axes, names, start } = place(kernel, &live);
    emitter.share_words(kernel.stores.iter().map(|s| (s.arg, dtype(kernel, s.value), false)));
    let mut body = start + &emitter.emit(&wanted(kernel), &[], &At { axes: &axes, names: &names })?;
    for store in &kernel.stores {
        let dtype = dtype(kernel, store.value);
        let at = address(&store.view, &axes, &names);
        let value = format!("v{}", store.value.0);
        let _ = writeln!(body, "{}", emitter.store(store.arg, dtype, &at, &value)?);
    }
    Ok(format!("fn store_c(batch: u32, row: i32, col: i32, product: f32) {{\n{body}}}\n"))
}

/// `store_quad(batch, row, first, products)`: columns `first` to `first + 3`, without those past the edge.
pub(super) fn quad(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let head = "fn store_quad(batch: u32, row: i32, first: i32, products: vec4<f32>) {\n";
    let wanted: Vec<usize> = kernel.stores.iter().map(|s| s.value.index()).collect();
    let live = emitter.live(&self::wanted(kernel))?;
    let Place { axes, names, start } = place(kernel, &live);
    if !kernel.n.is_multiple_of(4) {
        // Element by element, up to the edge.
        let one = single(kernel, emitter)?;
        let mut body = String::new();
        for lane in 0..4 {
            let _ = writeln!(
                body,
                "if (first + {lane}i < {}i) {{ store_c(batch, row, first + {lane}i, products[{lane}]); }}",
                kernel.n
            );
        }
        return Ok(format!("{one}{head}{body}}}\n"));
    }
    let mut loads = wide_loads(&kernel.exprs, &live, &axes);
    let operands = [kernel.a.arg, kernel.b.arg];
    loads.retain(|&i| !matches!(&kernel.exprs[i].expr, Expr::Load { arg, .. } if operands.contains(arg)));
    let lanes = Lanes { axes: &axes, names: &names, first: "first", loads: &loads };
    let first = lanes.first_names();
    // A buffer that several stores share has one type.
    let all_wide = |arg: u32| kernel.stores.iter().filter(|s| s.arg == arg).all(|s| is_wide(&s.view, &axes));
    emitter.share_words(kernel.stores.iter().map(|s| (s.arg, dtype(kernel, s.value), all_wide(s.arg))));
    let (mut before, mut after, mut each) = (String::new(), String::new(), Vec::new());
    for (n, store) in kernel.stores.iter().enumerate() {
        let dtype = dtype(kernel, store.value);
        let value = format!("v{}", store.value.0);
        if all_wide(store.arg) {
            let buffer = emitter.fours(store.arg, dtype, true)?;
            let _ = writeln!(before, "var r{n}: vec4<{}>;", value_type(WHAT, dtype)?);
            each.push((Some(n), value));
            let results = emitter.packed_vector(dtype, &format!("r{n}"))?;
            let _ = writeln!(after, "{buffer}[({}) / 4i] = {results};", address(&store.view, &axes, &first));
        } else {
            each.push((None, emitter.store(store.arg, dtype, &address(&store.view, &axes, &names), &value)?));
        }
    }
    let mut body = start + &before;
    let product = value_type(WHAT, kernel.dtype)?;
    lanes.write(
        &mut body,
        emitter,
        [&wanted, &[]],
        |lane| format!("let product: {product} = products[{lane}];"),
        |out, lane| {
            for (wide, text) in &each {
                let _ = match wide {
                    Some(n) => writeln!(out, "r{n}[{lane}] = {text};"),
                    None => writeln!(out, "{text}"),
                };
            }
        },
    )?;
    Ok(format!("{head}{body}{after}}}\n"))
}
