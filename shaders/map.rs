//! Map kernels: one invocation per element, or per four neighbours along the innermost axis.

use std::fmt::Write;

use wgrad_ir::{DeviceCaps, Expr, ExprId, MapKernel};

use crate::{
    Dispatch, KernelError,
    bindings::{storage_type, value_type},
    expr::{At, Emitter, from_storage, outer_views, to_storage},
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

    let lanes = if wide { 4 } else { 1 };
    let invocations = elements / lanes;
    let workgroup_size = 64u32.min(caps.max_workgroup_invocations.max(1));
    let grid = Grid::fold(invocations.div_ceil(workgroup_size as usize), caps.max_workgroups_per_dim)?;

    let mut main = String::new();
    let _ = writeln!(main, "let i = {} * {workgroup_size}u + local;", grid.number);
    let _ = writeln!(main, "if (i >= {invocations}u) {{ return; }}");
    let functions = if wide {
        write_wide(&mut main, kernel, &mut emitter, &axes, &names, &given)?
    } else {
        write_coordinates(&mut main, "i", &axes, &names);
        main += &emitter.emit(&wanted, &[], &At { axes: &axes, names: &names })?;
        for store in &kernel.stores {
            let dtype = kernel.exprs[store.value.index()].dtype;
            let buffer = emitter.bindings.arg(store.arg, storage_type(WHAT, dtype)?, true)?;
            let at = address(&store.view, &axes, &names);
            let _ = writeln!(main, "{buffer}[{at}] = {};", to_storage(dtype, &format!("v{}", store.value.0)));
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
        let buffer =
            emitter.bindings.arg(*arg, &format!("vec4<{}>", storage_type(WHAT, node.dtype)?), false)?;
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
            arguments.push(from_storage(kernel.exprs[i].dtype, &format!("w{i}[{lane}]")));
        }
        let _ = writeln!(main, "let r{lane} = values({});", arguments.join(", "));
    }
    for (n, store) in kernel.stores.iter().enumerate() {
        let dtype = kernel.exprs[store.value.index()].dtype;
        let element = storage_type(WHAT, dtype)?;
        let at = address(&store.view, axes, names);
        let lane = |l: usize| to_storage(dtype, &format!("r{l}.s{n}"));
        // A buffer that several stores share (the parts of a Concat) has one type.
        let all_wide = kernel.stores.iter().filter(|s| s.arg == store.arg).all(|s| is_wide(&s.view, axes));
        if all_wide {
            let buffer = emitter.bindings.arg(store.arg, &format!("vec4<{element}>"), true)?;
            let lanes: Vec<String> = (0..4).map(lane).collect();
            let _ = writeln!(main, "{buffer}[({at}) / 4i] = vec4<{element}>({});", lanes.join(", "));
        } else {
            let buffer = emitter.bindings.arg(store.arg, element, true)?;
            let step = axes.last().map_or(0, |a| stride(&store.view, a));
            for l in 0..4 {
                let _ = writeln!(
                    main,
                    "{buffer}[{at} + {}] = {};",
                    crate::index::integer(step * l as i64),
                    lane(l)
                );
            }
        }
    }
    Ok(functions)
}
