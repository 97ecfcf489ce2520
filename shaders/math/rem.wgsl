// The remainder of a / b with the sign of a, as C's fmod: exact. Reads and writes no memory. Needs special.wgsl.
// Long division by doublings of b: every subtraction is of a number between half and all of the rest, and so has no rounding error.
// The loops take as many steps as the quotient has bits.
fn w_rem(a: f32, b: f32) -> f32 {
    let y = abs(b);
    var r = abs(a);
    if (y == 0.0f || (bitcast<u32>(a) & 0x7f800000u) == 0x7f800000u) { return w_special(0x7fc00000u); }
    var s = y;
    for (var step = 0u; step < 280u && s <= 0.5f * r; step++) { s = s * 2.0f; }
    for (var step = 0u; step < 281u && r >= y; step++) {
        if (r >= s) { r = r - s; }
        s = s * 0.5f;
    }
    return select(r, -r, (bitcast<u32>(a) & 0x80000000u) != 0u);
}
