// Step 1 of 3 of a sum of rows by id: zeros.
// Writes: every element of `out`. One invocation per element.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_number(group) * SIZE + local;
    if (i < ROWS * ROW_LEN) { out[i] = Element(); }
}
