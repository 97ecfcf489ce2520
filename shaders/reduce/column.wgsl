// Sums of columns: neighbouring results are neighbours in memory.
// Reads: `column_values(o, r)`, LANES results from number o at once, for each o and r < INNER. Writes: `store(o, v)` once for each o.
// Workgroup: COLS times LANES results, PARTS invocations for each: invocation (c, p) combines r = p, p + PARTS, ..., and a tree in shared memory
// (SIZE elements for each of LANES) combines the parts. Neighbours read neighbouring memory. Order: that of the strides (in blocks of 128) and of
// the tree; always the same.
var<workgroup> partial: array<array<Values, LANES>, SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let wanted = (group_number(group) * COLS + local % COLS) * u32(LANES);
    let part = local / COLS;
    // Surplus invocations compute the last results again and do not store them: they must not miss the barriers.
    let o = min(wanted, OUTER - u32(LANES));
    var total: array<Values, LANES>;
    if (STARTS_WITH_ELEMENT) {
        let v = column_values(o, 0u);
        for (var l = 0i; l < LANES; l++) { // unroll
            total[l] = initial(v[l]);
        }
    }
    for (var first = part; first < INNER; first += 128u * PARTS) {
        let end = min(first + 128u * PARTS, INNER);
        var block: array<Values, LANES>;
        for (var l = 0i; l < LANES; l++) { // unroll
            block[l] = initial(total[l]);
        }
        for (var r = first; r < end; r += PARTS) {
            let v = column_values(o, r);
            for (var l = 0i; l < LANES; l++) { // unroll
                block[l] = combine(block[l], v[l]);
            }
        }
        for (var l = 0i; l < LANES; l++) { // unroll
            total[l] = combine(total[l], block[l]);
        }
    }
    if (PARTS > 1u) {
        partial[local] = total;
        for (var half = PARTS / 2u; half > 0u; half = half / 2u) {
            workgroupBarrier();
            if (part < half) {
                for (var l = 0i; l < LANES; l++) { // unroll
                    partial[local][l] = combine(partial[local][l], partial[local + half * COLS][l]);
                }
            }
        }
        total = partial[local];
    }
    if (part == 0u && wanted < OUTER) {
        for (var l = 0i; l < LANES; l++) { // unroll
            store(o + u32(l), total[l]);
        }
    }
}
