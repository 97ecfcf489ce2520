//! Row kernels: a team of invocations walks each row once per phase.
//!
//! Reads: what the expressions load, once per phase that needs it; four neighbours at once where views allow it. Writes: each store's
//! elements once. Workgroup: `SIZE / TEAM` rows of `TEAM` invocations each; invocation `member` of a team takes elements (or fours)
//! `member`, `member + TEAM`, ..., so that neighbours read neighbouring memory. A phase ends with a tree over the team in shared memory
//! (none for a team of one), after which all know the row's values; what is the same along a row is computed once, between phases.
//! Order: that of the strides and of the tree; always the same.

mod phases;
mod text;

use std::fmt::Write;

use wgrad_ir::{DeviceCaps, ExprId, RowKernel, Shape, Store, View};

use crate::{
    Dispatch, KernelError,
    expr::{Emitter, outer_views},
    grid::Grid,
    index::{check_elements, check_iterations, collapse},
    wide::{is_wide, wide_loads},
};
use phases::Phases;
use text::Writer;

const WHAT: &str = "a row kernel";

/// Rows whose expressions are more are not repeated for each of four lanes.
const MAX_WIDE_EXPRS: usize = 96;

/// How many invocations share one row: a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RowVariant {
    /// Invocations of one row.
    pub team: u32,
}

/// Generates one dispatch with the team that suits extents and device; none if there are no rows.
pub(crate) fn generate(
    kernel: &RowKernel,
    caps: &DeviceCaps,
    variant: Option<RowVariant>,
) -> Result<Vec<Dispatch>, KernelError> {
    let (rows, inner) = (kernel.outer.elements(), kernel.inner.elements());
    if rows == 0 || inner == 0 || kernel.stores.is_empty() {
        return Ok(Vec::new());
    }
    check_elements(WHAT, rows.saturating_mul(inner))?;
    let wanted: Vec<ExprId> = kernel.stores.iter().map(|s| s.value).collect();
    let mut emitter = Emitter::new(WHAT, &kernel.exprs);
    let live = emitter.live(&wanted)?;
    let phases = Phases::new(kernel, &live)?;

    let space: Shape = kernel.outer.iter().chain(kernel.inner.iter()).copied().collect();
    let wall = kernel.outer.rank();
    let store_views: Vec<View> = kernel.stores.iter().map(|s| over_space(s, kernel, &space)).collect();
    let mut views = outer_views(&kernel.exprs, &live);
    views.extend(&store_views);
    let axes = collapse(&space, &views, &[wall]);
    let split = axes.iter().position(|a| a.from.start >= wall).unwrap_or(axes.len());

    let loads = wide_loads(&kernel.exprs, &live, &axes);
    let loads: Vec<usize> = loads.into_iter().filter(|&i| !phases.constant[i]).collect();
    let is_wide_store = |n: usize| !is_per_row(&kernel.stores[n], kernel) && is_wide(&store_views[n], &axes);
    let wide = axes[split..].last().is_some_and(|a| a.len % 4 == 0)
        && kernel.exprs.len() <= MAX_WIDE_EXPRS
        && (!loads.is_empty() || (0..kernel.stores.len()).any(is_wide_store));
    let steps = if wide { inner / 4 } else { inner };
    let shared_words: usize = phases.list.iter().map(Vec::len).sum();
    let team = match variant {
        Some(variant) => variant.team.next_power_of_two(),
        None => choose_team(caps, rows, steps, phases.list.len(), shared_words),
    };
    let size = workgroup_size(caps, team, shared_words);
    let walks = phases.list.len() + 1;
    check_iterations(caps, WHAT, walks * (steps.div_ceil(team as usize) + 12))?;
    let groups = rows.div_ceil((size / team) as usize);
    let grid = Grid::fold(groups, caps.max_workgroups_per_dim)?;

    let mut writer = Writer {
        kernel,
        emitter: &mut emitter,
        phases: &phases,
        axes: &axes,
        split,
        loads: if wide { loads } else { Vec::new() },
        wide,
        team,
        size,
        rows,
        steps,
        store_views: &store_views,
        head: String::new(),
    };
    let body = writer.body(&grid.number)?;
    let head = std::mem::take(&mut writer.head);

    let mut source = String::new();
    emitter.bindings.write(&mut source);
    emitter.library.write(&mut source);
    let _ = writeln!(
        source,
        "{head}@compute @workgroup_size({size})\nfn main(@builtin(workgroup_id) group: vec3<u32>, \
         @builtin(local_invocation_index) local: u32) {{\n{body}}}"
    );
    Ok(vec![Dispatch {
        source: source.into(),
        bindings: emitter.bindings.into_list(),
        workgroups: grid.workgroups,
        workgroup_size: size,
        subgroups: false,
    }])
}

/// Whether a store has one element per row.
fn is_per_row(store: &Store, kernel: &RowKernel) -> bool {
    store.view.shape.rank() == kernel.outer.rank() && kernel.inner.rank() > 0
}

/// A store's view over rows and their elements; a result per row repeats along the row.
fn over_space(store: &Store, kernel: &RowKernel, space: &Shape) -> View {
    let mut view = store.view.clone();
    if is_per_row(store, kernel) {
        view.strides.extend(kernel.inner.iter().map(|_| 0));
        view.shape = space.clone();
    }
    view
}

/// How many invocations share a row of `steps` elements (or fours).
fn choose_team(caps: &DeviceCaps, rows: usize, steps: usize, phases: usize, shared_words: usize) -> u32 {
    let most = caps
        .max_workgroup_invocations
        .min(caps.max_workgroup_bytes / (4 * shared_words as u32).max(1))
        .clamp(1, 256);
    let most = if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 };
    if caps.software {
        // Barriers are dear where they are a switch between loops: a team pays only where invocations would stand idle, or
        // loop too often (see `check_iterations`).
        // No invocation adds up more than some thousand elements in turn: rounding errors grow with their number.
        let long = if phases > 0 { steps.div_ceil(2048).next_power_of_two() as u32 } else { 1 };
        let idle = if phases > 0 && rows < 16 && steps >= 256 { 64 } else { 1 };
        // Members walk one after the other: the farther they are apart, the more each misses the cache. Very long rows need more
        // of them all the same (see `check_iterations`).
        let apart = if steps > 1_000_000 { most } else { most.min(64) };
        return long.max(idle).min(apart);
    }
    // At least two steps for each; half a subgroup and less is not worth its idle lanes.
    (steps.div_ceil(2).next_power_of_two() as u32).clamp(8.min(most), most)
}

/// Invocations of one workgroup: at least a team, and several teams where rows are short.
fn workgroup_size(caps: &DeviceCaps, team: u32, shared_words: usize) -> u32 {
    // A workgroup is the unit of work of one core on a software adapter: not too many rows, so that each core has some.
    let wanted = if caps.software { 16 } else { 128 };
    let fits = |size: u32| {
        size <= caps.max_workgroup_invocations.max(1)
            && (team == 1 || size * 4 * shared_words as u32 <= caps.max_workgroup_bytes)
    };
    let mut size = team;
    while size < wanted && fits(2 * size) {
        size *= 2;
    }
    size
}
