// The bits of an f32 as an integer that orders as the number does: both zeros alike, NaN above all. Reads and writes no memory.
fn ascending(word: u32) -> u32 {
    let magnitude = word & 0x7fffffffu;
    let negative = magnitude != word && magnitude != 0u;
    let ordered = select(magnitude | 0x80000000u, ~word, negative);
    return select(ordered, 0xffffffffu, magnitude > 0x7f800000u);
}
