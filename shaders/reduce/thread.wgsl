// One invocation per result.
// Reads: `values(o, r)` once for each o < OUTER, r < INNER. Writes: `store(o, v)` once for each o.
// Workgroup: SIZE neighbouring results; no shared memory. Neighbours read neighbouring columns of a column sum together.
// Order: blocks of 128 elements in turn, so that rounding errors grow with the number of blocks and not of elements; always the same.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let o = group_number(group) * SIZE + local;
    if (o >= OUTER) { return; }
    var total = Values();
    if (STARTS_WITH_ELEMENT) { total = initial(values(o, 0u)); }
    for (var start = 0u; start < INNER; start += 128u) {
        let end = min(start + 128u, INNER);
        var block = initial(total);
        var r = start;
        // Four at a time: their loads can be under way together.
        for (; r + 4u <= end; r += 4u) {
            let v0 = values(o, r);
            let v1 = values(o, r + 1u);
            let v2 = values(o, r + 2u);
            let v3 = values(o, r + 3u);
            block = combine(combine(combine(combine(block, v0), v1), v2), v3);
        }
        for (; r < end; r++) {
            block = combine(block, values(o, r));
        }
        total = combine(total, block);
    }
    store(o, total);
}
