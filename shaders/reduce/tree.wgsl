// One workgroup per result.
// Reads: `values(o, r)` once for each o < OUTER, r < INNER. Writes: `store(o, v)` once for each o.
// Workgroup: SIZE invocations (a power of two) and SIZE elements of shared memory. Invocation l takes r = l, l + SIZE, ..., so that
// neighbours read neighbouring elements of a row; then a tree. Order: that of the strides (in blocks of 128) and of the tree; always the same.
var<workgroup> partial: array<Values, SIZE>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let o = group_number(group);
    // Surplus workgroups of a folded grid compute the last result again and do not store it: they must not miss the barriers.
    let row = min(o, OUTER - 1u);
    var total = Values();
    if (STARTS_WITH_ELEMENT) { total = initial(values(row, 0u)); }
    for (var start = local; start < INNER; start += 128u * SIZE) {
        let end = min(start + 128u * SIZE, INNER);
        var block = initial(total);
        for (var r = start; r < end; r += SIZE) {
            block = combine(block, values(row, r));
        }
        total = combine(total, block);
    }
    partial[local] = total;
    for (var half = SIZE / 2u; half > 0u; half = half / 2u) {
        workgroupBarrier();
        if (local < half) {
            partial[local] = combine(partial[local], partial[local + half]);
        }
    }
    if (local == 0u && o < OUTER) { store(o, partial[0]); }
}
