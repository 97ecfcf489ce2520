// A later step of a sort of rows: pairs of sorted runs of WIDTH become one.
// Reads: `elements`, `runs`. Writes: `sorted`, all of it.
// One invocation per element: its place is its place in its own run plus the number of elements of the other run that come before it,
// which a binary search finds. Of equal elements those of the left run come first.
@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_number(group) * SIZE + local;
    if (i >= ELEMENTS) { return; }
    let at = i % LEN;
    let row = i - at;
    let place = at % WIDTH;
    let start = at - place;
    let is_left = (start / WIDTH) % 2u == 0u;
    let pair = select(start - WIDTH, start, is_left);
    let other = min(select(pair, start + WIDTH, is_left), LEN);
    let position = runs[i];
    let key = key_of(elements[row + position]);
    var low = 0u;
    var high = min(other + WIDTH, LEN) - other;
    while (low < high) {
        let middle = (low + high) / 2u;
        let before = key_of(elements[row + runs[row + other + middle]]);
        if (before < key || (before == key && !is_left)) { low = middle + 1u; } else { high = middle; }
    }
    sorted[row + pair + place + low] = position;
}
