//! The table as a page of the documentation.

use std::fmt::Write;

use crate::{Row, rows};

/// `docs/src/operations.md`.
pub fn operations_md() -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask docs` from the table of operations; edit the rows in `optable/src/rows`. -->\n\n# Operations\n\n\
         Names are PyTorch's. `..` stands for any number of axes. Dtypes are those of the main operands; indices and targets \
         are `i32` or `u32`, and masks `bool`. Operations on floats take `f16` and `bf16` too, on both devices; `f64` is the CPU's alone. Every operation is \
         compared between the CPU and the GPU, between f32 and f64, in 16 bits with f32 on the same rounded operands, and between \
         layouts of its operands; what else it is compared with stands in the last column.\n",
    );
    for (family, rows) in rows::families() {
        let _ = write!(
            page,
            "\n## {family}\n\n| operation | shapes | dtypes | gradient | devices | compared with |\n|---|---|---|---|---|---|\n"
        );
        for row in rows {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} | {} |",
                row.name,
                cell(row.shapes),
                dtypes(&row),
                row.no_gradient.map_or("yes".to_owned(), |why| format!("no: {why}")),
                row.cpu_only.map_or("CPU, GPU".to_owned(), |why| format!("CPU: {why}")),
                compared(&row)
            );
        }
    }
    page
}

fn cell(shapes: &str) -> String {
    let sides: Vec<String> = shapes.split('→').map(|side| format!("`{}`", side.trim())).collect();
    sides.join(" → ").replace('|', "\\|")
}

fn dtypes(row: &Row) -> String {
    let names: Vec<&str> = row.dtypes.list().iter().map(|d| d.name()).collect();
    names.join(", ")
}

fn compared(row: &Row) -> String {
    let mut with = Vec::new();
    if row.no_gradient.is_none() {
        with.push("finite differences".to_owned());
    }
    if !row.entries.is_empty() {
        let names: Vec<String> = row.entries.iter().map(|e| format!("`{}`", e.name)).collect();
        with.push(format!("PyTorch: {}", names.join(", ")));
    }
    with.join("; ")
}
