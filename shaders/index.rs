//! Index arithmetic: from an invocation's number to coordinates, and from coordinates through views to addresses.

use std::{fmt::Write, ops::Range};

use wgrad_ir::{DeviceCaps, IndexMap, View};

use crate::KernelError;

/// Most elements that 32-bit signed addresses reach.
pub(crate) const MAX_ELEMENTS: usize = i32::MAX as usize;

/// Refuses spaces whose indices do not fit 31 bits.
pub(crate) fn check_elements(what: &'static str, elements: usize) -> Result<(), KernelError> {
    if elements > MAX_ELEMENTS { Err(KernelError::TooManyElements { what, elements }) } else { Ok(()) }
}

/// Refuses more loop iterations than a software adapter runs: llvmpipe counts those of all loops of an invocation together, and
/// beyond 65,535 it leaves them without a word (`LP_MAX_TGSI_LOOP_ITERATIONS`; measured with Mesa 22.3).
pub(crate) fn check_iterations(
    caps: &DeviceCaps,
    what: &'static str,
    iterations: usize,
) -> Result<(), KernelError> {
    if caps.software && iterations > 65_000 {
        return Err(KernelError::TooManyIterations { what, iterations });
    }
    Ok(())
}

/// A run of neighbouring axes that every view of a kernel walks as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Axis {
    /// The axes of the original shape that it joins.
    pub(crate) from: Range<usize>,
    /// Product of their extents.
    pub(crate) len: usize,
}

/// Joins the axes of `shape` as far as all `views` over it allow, dropping those of extent 1. Axes on two sides of a wall
/// stay apart.
pub(crate) fn collapse(shape: &[usize], views: &[&View], walls: &[usize]) -> Vec<Axis> {
    let masked = |view: &View, d: usize| view.mask.as_ref().is_some_and(|m| m[d] != (0, shape[d]));
    let mut axes: Vec<Axis> = Vec::new();
    for (d, &len) in shape.iter().enumerate() {
        if len == 1 && !views.iter().any(|v| masked(v, d)) {
            continue;
        }
        if let Some(last) = axes.last_mut()
            && !walls.iter().any(|w| last.from.start < *w && *w <= d)
            && views.iter().all(|v| {
                let p = last.from.end - 1;
                !masked(v, p) && !masked(v, d) && v.strides[p] == v.strides[d] * len as i64
            })
        {
            *last = Axis { from: last.from.start..d + 1, len: last.len * len };
            continue;
        }
        axes.push(Axis { from: d..d + 1, len });
    }
    axes
}

/// The stride of a joined axis.
pub(crate) fn stride(view: &View, axis: &Axis) -> i64 {
    view.strides[axis.from.end - 1]
}

/// The mask of a joined axis, if it excludes anything.
pub(crate) fn mask(view: &View, axis: &Axis) -> Option<(usize, usize)> {
    let d = axis.from.start;
    view.mask.as_ref().map(|m| m[d]).filter(|&m| axis.from.len() == 1 && m != (0, view.shape[d]))
}

/// Writes `let` statements that split the `u32` expression `number` into `i32` coordinates named `names`.
pub(crate) fn write_coordinates(out: &mut String, number: &str, axes: &[Axis], names: &[String]) {
    match axes {
        [] => {}
        [_] => {
            let _ = writeln!(out, "let {} = i32({number});", names[0]);
        }
        _ => {
            let mut rest = number.to_owned();
            for (n, (axis, name)) in axes.iter().zip(names).enumerate().rev() {
                if n == 0 {
                    let _ = writeln!(out, "let {name} = i32({rest});");
                } else {
                    let _ = writeln!(out, "let {name} = i32({rest} % {}u);", axis.len);
                    let _ = writeln!(out, "let {name}_r = {rest} / {}u;", axis.len);
                    rest = format!("{name}_r");
                }
            }
        }
    }
}

/// The address of a view as an `i32` expression of coordinates.
pub(crate) fn address(view: &View, axes: &[Axis], names: &[String]) -> String {
    let mut terms: Vec<String> = Vec::new();
    if view.offset != 0 {
        terms.push(integer(view.offset));
    }
    for (axis, name) in axes.iter().zip(names) {
        match stride(view, axis) {
            0 => {}
            1 => terms.push(name.clone()),
            s => terms.push(format!("{name} * {}", integer(s))),
        }
    }
    if terms.is_empty() { "0i".into() } else { terms.join(" + ") }
}

/// An `i32` literal; negative ones in brackets, so that they can follow an operator.
pub(crate) fn integer(value: i64) -> String {
    if value < 0 { format!("({value}i)") } else { format!("{value}i") }
}

/// The address that a chain of views finds, as statements and an expression.
pub(crate) struct Located {
    /// Statements, with `open` blocks left open inside of which the address is valid.
    pub(crate) statements: String,
    /// How many blocks are open; none for maps without masks.
    pub(crate) open: usize,
    /// The address.
    pub(crate) address: String,
}

/// Follows `map` from coordinates `names` over `axes` to memory. `prefix` starts the names of helper values.
pub(crate) fn locate(
    map: &IndexMap,
    axes: &[Axis],
    names: &[String],
    prefix: &str,
) -> Result<Located, KernelError> {
    let mut found = Located { statements: String::new(), open: 0, address: String::new() };
    let views = map.views();
    let (mut axes, mut names) = (axes.to_vec(), names.to_vec());
    for (n, view) in views.iter().enumerate().rev() {
        check_elements("an index map", view.shape.elements())?;
        if n + 1 < views.len() {
            // The address so far numbers the elements of this view's shape.
            let from = format!("{prefix}_a{n}");
            let _ = writeln!(found.statements, "let {from} = u32({});", found.address);
            axes = collapse(&view.shape, &[view], &[]);
            names = (0..axes.len()).map(|d| format!("{prefix}_c{n}_{d}")).collect();
            write_coordinates(&mut found.statements, &from, &axes, &names);
        }
        let mut inside: Vec<String> = Vec::new();
        for (axis, name) in axes.iter().zip(&names) {
            let Some((low, high)) = mask(view, axis) else { continue };
            if low > 0 {
                inside.push(format!("{name} >= {low}i"));
            }
            if high < axis.len {
                inside.push(format!("{name} < {high}i"));
            }
        }
        if !inside.is_empty() {
            let _ = writeln!(found.statements, "if ({}) {{", inside.join(" && "));
            found.open += 1;
        }
        found.address = address(view, &axes, &names);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use wgrad_ir::{Op, Shape};

    use super::*;

    #[test]
    fn contiguous_axes_join_and_transposed_ones_do_not() {
        let shape = Shape::from([2, 3, 4]);
        let plain = View::contiguous(shape.clone());
        assert_eq!(collapse(&shape, &[&plain], &[]), [Axis { from: 0..3, len: 24 }]);
        let swapped =
            View::contiguous([3, 2, 4].into()).apply(&Op::Permute([1, 0, 2].into_iter().collect())).unwrap();
        assert_eq!(collapse(&shape, &[&plain, &swapped], &[]).len(), 3);
        assert_eq!(collapse(&shape, &[&plain], &[1]).len(), 2);
    }

    #[test]
    fn addresses_of_reversed_axes_are_bracketed() {
        let view = View::contiguous([4].into()).apply(&Op::Flip([0].into_iter().collect())).unwrap();
        let axes = collapse(&[4], &[&view], &[]);
        assert_eq!(address(&view, &axes, &["c0".into()]), "3i + c0 * (-1i)");
    }
}
