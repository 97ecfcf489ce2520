// One invocation per line.
// Reads: `step_at(l, i)` once for each l < LINES, i < LEN. Writes: `store(l, i, value)` once for each.
// Workgroup: SIZE neighbouring lines; no shared memory. Neighbours read neighbouring elements where the lines lie side by side.
// Order: from the first element to the last.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let l = group_number(group) * SIZE + local;
    if (l >= LINES) { return; }
    // What a line begins with is zero, whatever its first factor is.
    var sum = step_at(l, 0u).term;
    store(l, 0u, sum);
    var i = 1u;
    // Four at a time: their loads can be under way together.
    for (; i + 4u <= LEN; i += 4u) {
        let s0 = step_at(l, i);
        let s1 = step_at(l, i + 1u);
        let s2 = step_at(l, i + 2u);
        let s3 = step_at(l, i + 3u);
        sum = apply(sum, s0);
        store(l, i, sum);
        sum = apply(sum, s1);
        store(l, i + 1u, sum);
        sum = apply(sum, s2);
        store(l, i + 2u, sum);
        sum = apply(sum, s3);
        store(l, i + 3u, sum);
    }
    for (; i < LEN; i++) {
        sum = apply(sum, step_at(l, i));
        store(l, i, sum);
    }
}
