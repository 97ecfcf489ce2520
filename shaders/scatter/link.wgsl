// Step 2 of 3 of a sum of rows by id: chains of equal ids.
// Reads: `ids`. Writes: chain[i] = 1 if no earlier id equals id i, else 0; chain[COUNT + i] = the next i with an equal id, or COUNT.
// One invocation per id; both scans stop at the first hit, so that frequent ids cost little and rare ones a pass over `ids`.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_number(group) * SIZE + local;
    if (i >= COUNT) { return; }
    let row = row_of(ids[i]);
    // Four ids an iteration.
    var first = 1u;
    for (var j = i; j > 0u; j -= min(j, 4u)) {
        if (row_of(ids[j - 1u]) == row || row_of(ids[max(j, 2u) - 2u]) == row
            || row_of(ids[max(j, 3u) - 3u]) == row || row_of(ids[max(j, 4u) - 4u]) == row) {
            first = 0u;
            break;
        }
    }
    var next = COUNT;
    for (var j = i + 1u; j < COUNT; j += 4u) {
        if (row_of(ids[j]) == row) { next = j; }
        else if (j + 1u < COUNT && row_of(ids[min(j + 1u, COUNT - 1u)]) == row) { next = j + 1u; }
        else if (j + 2u < COUNT && row_of(ids[min(j + 2u, COUNT - 1u)]) == row) { next = j + 2u; }
        else if (j + 3u < COUNT && row_of(ids[min(j + 3u, COUNT - 1u)]) == row) { next = j + 3u; }
        if (next < COUNT) { break; }
    }
    chain[i] = first;
    chain[COUNT + i] = next;
}
