// a^b as C defines it: negative bases have integer exponents only, 0 has positive ones. Reads and writes no memory.
// Needs special.wgsl, exp.wgsl and log.wgsl.
// Small integer exponents (squares, cubes, ...) multiply; others are e^(b ln |a|), whose relative error grows with |b ln a|.
fn w_pow(a: f32, b: f32) -> f32 {
    let n = floor(b);
    let whole = n == b;
    let size = abs(b);
    if (whole && size <= 32.0f) {
        var rest = u32(size);
        var square = a;
        var product = 1.0f;
        for (var step = 0u; step < 6u; step++) {
            if ((rest & 1u) == 1u) { product = product * square; }
            square = square * square;
            rest = rest >> 1u;
        }
        if (b >= 0.0f) { return product; }
        if (product != 0.0f) { return 1.0f / product; }
    }
    let odd = whole && floor(n * 0.5f) * 2.0f != n;
    let negative = (bitcast<u32>(a) & 0x80000000u) != 0u;
    let flip = negative && odd;
    if (a == 0.0f) {
        let magnitude = select(w_special(0x7f800000u), 0.0f, b > 0.0f);
        return select(magnitude, -magnitude, flip);
    }
    if (negative && !whole) { return w_special(0x7fc00000u); }
    let power = w_exp(b * w_log(abs(a)));
    return select(power, -power, flip);
}
