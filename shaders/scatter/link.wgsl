// Step 2 of 3 of a sum of rows by id: chains of equal ids.
// Reads: `ids`. Writes: chain[i] = 1 if no earlier id equals id i, else 0; chain[COUNT + i] = the next i with an equal id, or COUNT.
// One invocation per id; both scans stop at the first hit, so that frequent ids cost little and rare ones a pass over `ids`.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_number(group) * SIZE + local;
    if (i >= COUNT) { return; }
    let row = row_of(ids[i]);
    var first = 1u;
    for (var j = i; j > 0u; j--) {
        if (row_of(ids[j - 1u]) == row) {
            first = 0u;
            break;
        }
    }
    var next = COUNT;
    for (var j = i + 1u; j < COUNT; j++) {
        if (row_of(ids[j]) == row) {
            next = j;
            break;
        }
    }
    chain[i] = first;
    chain[COUNT + i] = next;
}
