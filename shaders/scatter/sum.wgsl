// Step 3 of 3 of a sum of rows by id: the sums.
// Reads: `ids`, `chain`, `source`. Writes: the rows of `out` that some id names.
// One invocation per id and column, of which those at the head of a chain walk it in ascending order: no atomics, and one fixed order.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group) * SIZE + local;
    if (number >= COUNT * ROW_LEN) { return; }
    let i = number / ROW_LEN;
    let column = number % ROW_LEN;
    if (chain[i] == 0u) { return; }
    var total = source[number];
    var j = chain[COUNT + i];
    while (j < COUNT) {
        total = total + source[j * ROW_LEN + column];
        j = chain[COUNT + j];
        // A second link in the same iteration.
        if (j < COUNT) {
            total = total + source[j * ROW_LEN + column];
            j = chain[COUNT + j];
        }
    }
    out[row_of(ids[i]) * ROW_LEN + column] = total;
}
