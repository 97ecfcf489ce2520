// e^x. Reads and writes no memory.
// x = k ln 2 + r with |r| <= ln 2 / 2 (ln 2 split in two, so that r is exact to f32), then the Taylor polynomial of degree 7
// (remainder below 6e-9), then an exact scaling by 2^k in two steps, which reaches infinity and the subnormals. About 1 ulp.
fn w_exp(x: f32) -> f32 {
    let t = clamp(x, -104.0f, 89.0f);
    let k = floor(t * 1.44269504f + 0.5f);
    let r = (t - k * 0.693359375f) + k * 2.12194440e-4f;
    var p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    let y = (p * r * r + r) + 1.0f;
    let n = i32(k);
    let half = n / 2i;
    let s0 = bitcast<f32>(u32(half + 127i) << 23u);
    let s1 = bitcast<f32>(u32(n - half + 127i) << 23u);
    // Clamping may have lost a NaN, and comparisons may assume there is none: the bits tell.
    return select(y * s0 * s1, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
