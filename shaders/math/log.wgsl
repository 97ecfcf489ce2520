// Natural logarithm; -inf at 0, NaN below. Reads and writes no memory. Needs special.wgsl.
// x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.172, as a series (remainder below 1e-9).
fn w_log(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) == 0u) { return w_special(0xff800000u); }
    if (bits >= 0x7f800000u) {
        // Infinity and NaN stay; negative numbers have no logarithm.
        return select(x, w_special(0x7fc00000u), bits >= 0x80000000u);
    }
    let small = bits < 0x00800000u;
    let scaled = bitcast<u32>(select(x, x * 8388608.0f, small));
    let shifted = scaled - 0x3f3504f3u;
    let e = i32(shifted) >> 23u;
    let m = bitcast<f32>((shifted & 0x007fffffu) + 0x3f3504f3u);
    let f = m - 1.0f;
    let s = f / (2.0f + f);
    let z = s * s;
    var p = 0.22222222f;
    p = p * z + 0.28571429f;
    p = p * z + 0.4f;
    p = p * z + 0.66666667f;
    let n = f32(e) - select(0.0f, 23.0f, small);
    // ln m = f - f^2/2 + s (f^2/2 + z p): the small terms are added first.
    let h = 0.5f * f * f;
    let tail = s * (h + z * p) - h;
    return n * 0.693359375f + (f + (tail - n * 2.12194440e-4f));
}
