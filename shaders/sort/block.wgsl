// Step 1 of a sort of rows: blocks of WIDTH elements.
// Reads: `elements`. Writes: `sorted`, all of it; within each block of a row, the row's positions in order of their elements.
// One invocation per element, which counts the elements of its block that come before it.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_number(group) * SIZE + local;
    if (i >= ELEMENTS) { return; }
    let at = i % LEN;
    let row = i - at;
    let start = at - at % WIDTH;
    let end = min(start + WIDTH, LEN);
    let key = key_of(elements[i]);
    var rank = 0u;
    for (var j = start; j < end; j++) {
        let other = key_of(elements[row + j]);
        rank += select(0u, 1u, other < key || (other == key && j < at));
    }
    sorted[row + start + rank] = at;
}
