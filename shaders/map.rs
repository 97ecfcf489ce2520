//! Map kernels: one invocation per element, or per four neighbours along the innermost axis.

use std::fmt::Write;

use wgrad_ir::{DeviceCaps, Expr, ExprId, MapKernel};

use crate::{
    Dispatch, KernelError,
    bindings::value_type,
    expr::{At, Emitter, outer_views},
    grid::Grid,
    index::{Axis, address, check_elements, collapse, stride, write_coordinates},
    wide::{is_wide, wide_loads},
};

const WHAT: &str = "a map kernel";

/// Kernels of more expressions are not repeated for each of four lanes: their arithmetic outweighs the loads.
const MAX_WIDE_EXPRS: usize = 96;

/// Generates one dispatch; none for an empty space.
pub(crate) fn generate(kernel: &MapKernel, caps: &DeviceCaps) -> Result<Vec<Dispatch>, KernelError> {
    let elements = kernel.space.elements();
    if elements == 0 || kernel.stores.is_empty() {
        return Ok(Vec::new());
    }
    check_elements(WHAT, elements)?;
    let wanted: Vec<ExprId> = kernel.stores.iter().map(|s| s.value).collect();
    let mut emitter = Emitter::new(WHAT, &kernel.exprs);
    let live = emitter.live(&wanted)?;
    let mut views = outer_views(&kernel.exprs, &live);
    views.extend(kernel.stores.iter().map(|s| &s.view));
    let axes = collapse(&kernel.space, &views, &[]);
    let names: Vec<String> = (0..axes.len()).map(|d| format!("c{d}")).collect();

    let wide = axes.last().is_some_and(|a| a.len % 4 == 0)
        && kernel.exprs.len() <= MAX_WIDE_EXPRS
        && kernel.stores.iter().any(|s| is_wide(&s.view, &axes));
    let given = if wide { wide_loads(&kernel.exprs, &live, &axes) } else { Vec::new() };

    // A buffer that several stores share (the parts of a Concat) has one type.
    let all_wide =
        |arg: u32| wide && kernel.stores.iter().filter(|s| s.arg == arg).all(|s| is_wide(&s.view, &axes));
    let dtype_of = |value: ExprId| kernel.exprs[value.index()].dtype;
    emitter.share_words(kernel.stores.iter().map(|s| (s.arg, dtype_of(s.value), all_wide(s.arg))));

    let lanes = if wide { 4 } else { 1 };
    let invocations = elements / lanes;
    let workgroup_size = 64u32.min(caps.max_workgroup_invocations.max(1));
    let grid = Grid::fold(invocations.div_ceil(workgroup_size as usize), caps.max_workgroups_per_dim)?;

    let mut main = String::new();
    let _ = writeln!(main, "let i = {} * {workgroup_size}u + local;", grid.number);
    let _ = writeln!(main, "if (i >= {invocations}u) {{ return; }}");
    let functions = if wide {
        write_wide(&mut main, kernel, &mut emitter, &axes, &names, &given, &all_wide)?
    } else {
        write_coordinates(&mut main, "i", &axes, &names);
        main += &emitter.emit(&wanted, &[], &At { axes: &axes, names: &names })?;
        for store in &kernel.stores {
            let at = address(&store.view, &axes, &names);
            let value = format!("v{}", store.value.0);
            let _ = writeln!(main, "{}", emitter.store(store.arg, dtype_of(store.value), &at, &value)?);
        }
        String::new()
    };

    let mut source = String::new();
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    source += &functions;
    let _ = writeln!(
        source,
        "@compute @workgroup_size({workgroup_size})\nfn main(@builtin(workgroup_id) group: vec3<u32>, \
         @builtin(local_invocation_index) local: u32) {{\n{main}}}"
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: emitter.bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size,
        subgroups: false,
    }])
}

/// Writes the body of `main` that loads, evaluates and stores four lanes; returns the functions it calls.
fn write_wide(
    main: &mut String,
    kernel: &MapKernel,
    emitter: &mut Emitter<'_>,
    axes: &[Axis],
    names: &[String],
    given: &[usize],
    all_wide: &dyn Fn(u32) -> bool,
) -> Result<String, KernelError> {
    // Coordinates of the first lane: the innermost axis counts in fours.
    let mut quarter = axes.to_vec();
    let inner = names.len() - 1;
    quarter[inner].len /= 4;
    let mut first = names.to_vec();
    first[inner] = format!("{}_q", names[inner]);
    write_coordinates(main, "i", &quarter, &first);
    let _ = writeln!(main, "let {} = {} * 4i;", names[inner], first[inner]);

    let mut params: Vec<String> = names.iter().map(|n| format!("{n}: i32")).collect();
    for &i in given {
        let node = &kernel.exprs[i];
        let Expr::Load { arg, map, .. } = &node.expr else { continue };
        let buffer = emitter.fours(*arg, node.dtype, false)?;
        let _ = writeln!(main, "let w{i} = {buffer}[({}) / 4i];", address(map.outer(), axes, names));
        params.push(format!("v{i}: {}", value_type(WHAT, node.dtype)?));
    }
    let wanted: Vec<ExprId> = kernel.stores.iter().map(|s| s.value).collect();
    let body = emitter.emit(&wanted, given, &At { axes, names })?;
    let mut functions = String::from("struct Values {\n");
    for (n, store) in kernel.stores.iter().enumerate() {
        let ty = value_type(WHAT, kernel.exprs[store.value.index()].dtype)?;
        let _ = writeln!(functions, "s{n}: {ty},");
    }
    let results: Vec<String> = kernel.stores.iter().map(|s| format!("v{}", s.value.0)).collect();
    let _ = writeln!(
        functions,
        "}}\nfn values({}) -> Values {{\n{body}return Values({});\n}}",
        params.join(", "),
        results.join(", ")
    );

    for lane in 0..4 {
        let mut arguments: Vec<String> = names.to_vec();
        arguments[inner] = format!("{} + {lane}i", names[inner]);
        for &i in given {
            let values = emitter.unpacked(kernel.exprs[i].dtype, &format!("w{i}"));
            arguments.push(values[lane].clone());
        }
        let _ = writeln!(main, "let r{lane} = values({});", arguments.join(", "));
    }
    for (n, store) in kernel.stores.iter().enumerate() {
        let dtype = kernel.exprs[store.value.index()].dtype;
        let at = address(&store.view, axes, names);
        let lanes = [0, 1, 2, 3].map(|l| format!("r{l}.s{n}"));
        if all_wide(store.arg) {
            let buffer = emitter.fours(store.arg, dtype, true)?;
            let _ = writeln!(main, "{buffer}[({at}) / 4i] = {};", emitter.packed(dtype, &lanes)?);
        } else {
            let step = axes.last().map_or(0, |a| stride(&store.view, a));
            for (l, value) in lanes.iter().enumerate() {
                let at = format!("{at} + {}", crate::index::integer(step * l as i64));
                let _ = writeln!(main, "{}", emitter.store(store.arg, dtype, &at, value)?);
            }
        }
    }
    Ok(functions)
}
