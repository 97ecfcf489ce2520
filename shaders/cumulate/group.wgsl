// One workgroup per line.
// Reads: `step_at(l, i)` once for each l < LINES, i < LEN. Writes: `store(l, i, value)` once for each.
// Workgroup: SIZE invocations (a power of two) and 2 * SIZE steps of shared memory. The line is walked in tiles of SIZE elements, which
// neighbours read together; within a tile, steps are composed in log2(SIZE) rounds (Hillis and Steele), and what came before the tile
// is applied at the end. Order: that of the rounds and of the tiles; always the same.
var<workgroup> composed: array<Step, 2u * SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let l = group_number(group);
    // Surplus workgroups of a folded grid compute the last line again and do not store it: they must not miss the barriers.
    let line = min(l, LINES - 1u);
    var before = Value();
    for (var start = 0u; start < LEN; start += SIZE) {
        let i = start + local;
        var mine = step_at(line, min(i, LEN - 1u));
        // What a line begins with is zero, whatever its first factor is.
        if (i == 0u) { mine = first(mine); }
        var half = 0u;
        composed[local] = mine;
        workgroupBarrier();
        for (var reach = 1u; reach < SIZE; reach = reach * 2u) {
            if (local >= reach) { mine = compose(composed[half + local - reach], mine); }
            half = SIZE - half;
            composed[half + local] = mine;
            workgroupBarrier();
        }
        if (l < LINES && i < LEN) { store(l, i, apply(before, mine)); }
        before = apply(before, composed[half + SIZE - 1u]);
        workgroupBarrier();
    }
}
