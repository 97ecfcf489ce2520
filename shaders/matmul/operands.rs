//! The operands of a product, as hooks.

use std::fmt::Write;

use wgrad_ir::{DType, Expr, MatMulKernel, Operand, View};

use crate::{
    KernelError,
    expr::Emitter,
    index::{address, check_elements, collapse, integer, write_coordinates},
};

/// `base_a`, `base_b`, and `load_a`, `load_b` of one element each.
pub(super) fn single(kernel: &MatMulKernel, emitter: &mut Emitter<'_>) -> Result<String, KernelError> {
    let (load_a, load_b) = if kernel.k == 0 {
        // Without a contraction nothing is loaded, and the operands have no memory to bind.
        ("0.0f".to_owned(), "0.0f".to_owned())
    } else {
        let [a, b] = kernel.operands;
        (
            emitter.load(kernel.a.arg, a, &format!("(base + {})", within(&kernel.a.view, "row", "k")))?,
            emitter.load(kernel.b.arg, b, &format!("(base + {})", within(&kernel.b.view, "k", "col")))?,
        )
    };
    Ok(format!(
        "{}fn load_a(base: i32, row: i32, k: i32) -> f32 {{ return {load_a}; }}\n\
         fn load_b(base: i32, k: i32, col: i32) -> f32 {{ return {load_b}; }}\n",
        bases(kernel)?
    ))
}

/// Hooks of the subgroup body, which loads four elements at once where memory allows it.
pub(super) struct Quads {
    /// `base_a`, `base_b`, `load_a`, `load_b`.
    pub(super) text: String,
    /// Whether a vec4 of A lies along k; else along the rows.
    pub(super) a_along_k: bool,
}

/// Hooks of the subgroup body: `load_a(base, row0, k, p, lane)` is vec4 `p` of the lane's share of A's rows from `row0`, four steps from `k`;
/// `load_b(base, k, col)` has for each of four steps four neighbouring columns.
pub(super) fn quads(
    kernel: &MatMulKernel,
    emitter: &mut Emitter<'_>,
    rows: usize,
) -> Result<Quads, KernelError> {
    let (m, n, k) = (kernel.m, kernel.n, kernel.k);
    let (a, b) = (&kernel.a.view, &kernel.b.view);
    let a_rank = a.shape.rank();
    let shared = kernel.a.arg == kernel.b.arg;
    let a_wide_k = k % 4 == 0 && wide_along(a, a_rank - 1);
    let a_wide_row = !a_wide_k && m % 4 == 0 && wide_along(a, a_rank - 2);
    let b_wide_col = n % 4 == 0 && wide_along(b, a_rank - 1);
    let b_wide_k = !b_wide_col && k % 4 == 0 && wide_along(b, a_rank - 2);
    let (mut a_wide, mut b_wide) = (a_wide_k || a_wide_row, b_wide_col || b_wide_k);
    if shared && a_wide != b_wide || is_loaded_again(kernel) {
        // One buffer has one type.
        (a_wide, b_wide) = (false, false);
    }
    let a_along_k = a_wide_k || !a_wide_row;
    let mut text = bases(kernel)?;
    if k == 0 {
        text += "fn load_a(base: i32, row0: i32, k: i32, p: i32, lane: i32) -> vec4<f32> { return vec4<f32>(); }\n\
                 fn load_b(base: i32, k: i32, col: i32) -> array<vec4<f32>, 4> { return array<vec4<f32>, 4>(); }\n";
        return Ok(Quads { text, a_along_k });
    }
    let mut open = |name: &str, operand: &Operand, dtype: DType, wide: bool| {
        let (hook, from) = access(emitter, name, operand.arg, dtype, wide)?;
        text += &hook;
        Ok::<_, KernelError>(from)
    };
    let a_from = open("a", &kernel.a, kernel.operands[0], a_wide)?;
    let b_from = open("b", &kernel.b, kernel.operands[1], b_wide)?;

    text += "fn load_a(base: i32, row0: i32, k: i32, p: i32, lane: i32) -> vec4<f32> {\n";
    // Past the edge some other row is read; past the end of k, where k is no multiple of 4, both are zero.
    if a_along_k {
        let _ = writeln!(text, "let row = min(row0 + 8i * p + lane, {}i);", m - 1);
        if a_wide {
            let _ = writeln!(text, "return {};", a_from(&format!("(base + {}) / 4i", within(a, "row", "k"))));
        } else {
            let items: Vec<String> = (0..4)
                .map(|u| {
                    let at = format!("min(k + {u}i, {}i)", k - 1);
                    let element = a_from(&format!("base + {}", within(a, "row", &at)));
                    if k % 4 == 0 { element } else { format!("select(0.0f, {element}, k + {u}i < {k}i)") }
                })
                .collect();
            let _ = writeln!(text, "return vec4<f32>({});", items.join(", "));
        }
    } else {
        // A vec4 holds four rows; ROWS / 4 lanes hold one step of k.
        let lanes = rows / 4;
        let _ = writeln!(
            text,
            "let step = min(k + {}i * p + lane / {lanes}i, {}i);\nlet row = row0 + 4i * (lane % {lanes}i);",
            8 / lanes,
            k - 1
        );
        if a_wide {
            let _ = writeln!(text, "let start = min(row, {}i);", m - 4);
            let value = a_from(&format!("(base + {}) / 4i", within(a, "start", "step")));
            let _ = writeln!(
                text,
                "return {};",
                masked(&value, k, &format!("k + {}i * p + lane / {lanes}i", 8 / lanes))
            );
        } else {
            let items: Vec<String> = (0..4)
                .map(|i| {
                    a_from(&format!("base + {}", within(a, &format!("min(row + {i}i, {}i)", m - 1), "step")))
                })
                .collect();
            let value = format!("vec4<f32>({})", items.join(", "));
            let _ = writeln!(
                text,
                "return {};",
                masked(&value, k, &format!("k + {}i * p + lane / {lanes}i", 8 / lanes))
            );
        }
    }
    text += "}\nfn load_b(base: i32, k: i32, col: i32) -> array<vec4<f32>, 4> {\n";
    let last = integer(k as i64 - 1);
    if b_wide && b_wide_col {
        let _ = writeln!(text, "let start = min(col, {}i);", n - 4);
        let steps: Vec<String> = (0..4)
            .map(|u| {
                let at = if k % 4 == 0 { format!("(k + {u}i)") } else { format!("min(k + {u}i, {last})") };
                let value = b_from(&format!("(base + {}) / 4i", within(b, &at, "start")));
                masked(&value, k, &format!("k + {u}i"))
            })
            .collect();
        let _ = writeln!(text, "return array<vec4<f32>, 4>({});", steps.join(", "));
    } else if b_wide {
        for j in 0..4 {
            let column = format!("min(col + {j}i, {}i)", n - 1);
            let _ = writeln!(
                text,
                "let x{j} = {};",
                b_from(&format!("(base + {}) / 4i", within(b, "k", &column)))
            );
        }
        let steps: Vec<String> =
            (0..4).map(|u| format!("vec4<f32>(x0[{u}], x1[{u}], x2[{u}], x3[{u}])")).collect();
        let _ = writeln!(text, "return array<vec4<f32>, 4>({});", steps.join(", "));
    } else {
        let element = |u: usize, j: usize| {
            let (step, column) = (format!("min(k + {u}i, {last})"), format!("min(col + {j}i, {}i)", n - 1));
            b_from(&format!("base + {}", within(b, &step, &column)))
        };
        let step = |u: usize| {
            let items: Vec<String> = (0..4).map(|j| element(u, j)).collect();
            masked(&format!("vec4<f32>({})", items.join(", ")), k, &format!("k + {u}i"))
        };
        let _ = writeln!(
            text,
            "return array<vec4<f32>, 4>({});",
            (0..4).map(step).collect::<Vec<_>>().join(",\n")
        );
    }
    text += "}\n";
    Ok(Quads { text, a_along_k })
}

/// How an operand's elements, or fours of them, are named by their index; and the hook that 16-bit ones need.
fn access(
    emitter: &mut Emitter<'_>,
    name: &str,
    arg: u32,
    dtype: DType,
    wide: bool,
) -> Result<(String, impl Fn(&str) -> String + use<>), KernelError> {
    let buffer = if wide { emitter.fours(arg, dtype, false)? } else { emitter.singles(arg, dtype, false)? };
    let (name, half) = (format!("from_{name}"), dtype.is_half());
    let hook = match (half, wide) {
        (false, _) => String::new(),
        (true, false) => {
            format!("fn {name}(at: i32) -> f32 {{ return {}; }}\n", emitter.load(arg, dtype, "at")?)
        }
        (true, true) => format!(
            "fn {name}(at: i32) -> vec4<f32> {{ let four = {buffer}[at]; return vec4<f32>({}); }}\n",
            emitter.unpacked(dtype, "four").join(", ")
        ),
    };
    Ok((hook, move |at: &str| if half { format!("{name}({at})") } else { format!("{buffer}[{at}]") }))
}

/// `value`, or zeros past the end of a contraction whose length is no multiple of 4.
fn masked(value: &str, k: usize, step: &str) -> String {
    if k.is_multiple_of(4) {
        value.to_owned()
    } else {
        format!("select(vec4<f32>(), {value}, {step} < {k}i)")
    }
}

/// Whether the epilogue reads an operand's buffer too: both bind it element by element then.
pub(super) fn is_loaded_again(kernel: &MatMulKernel) -> bool {
    let operand = |arg: u32| arg == kernel.a.arg || arg == kernel.b.arg;
    kernel.exprs.iter().any(|node| match &node.expr {
        Expr::Load { arg, .. } => operand(*arg),
        Expr::Gather { table, ids, .. } => operand(*table) || operand(*ids),
        _ => false,
    })
}

/// Whether four neighbours along one of the last two axes are one aligned `vec4`, wherever they start.
fn wide_along(view: &View, axis: usize) -> bool {
    let others = (0..view.shape.rank()).filter(|&d| d != axis && view.shape[d] != 1);
    view.strides[axis] == 1 && view.offset % 4 == 0 && others.map(|d| view.strides[d]).all(|s| s % 4 == 0)
}

/// The address of a matrix's element, relative to its batch.
fn within(view: &View, first: &str, second: &str) -> String {
    let rank = view.shape.rank();
    let term = |name: &str, stride: i64| match stride {
        0 => "0i".to_owned(),
        1 => name.to_owned(),
        s => format!("{name} * {}", integer(s)),
    };
    format!("{} + {}", term(first, view.strides[rank - 2]), term(second, view.strides[rank - 1]))
}

/// `base_a`, `base_b`.
fn bases(kernel: &MatMulKernel) -> Result<String, KernelError> {
    check_elements("an operand of a matrix product", kernel.a.view.shape.elements())?;
    check_elements("an operand of a matrix product", kernel.b.view.shape.elements())?;
    let (a, b) = (base(&kernel.a.view), base(&kernel.b.view));
    Ok(format!("fn base_a(batch: u32) -> i32 {{\n{a}}}\nfn base_b(batch: u32) -> i32 {{\n{b}}}\n"))
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
