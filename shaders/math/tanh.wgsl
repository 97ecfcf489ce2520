// Hyperbolic tangent. Reads and writes no memory. Needs exp.wgsl.
// Near 0 from the Taylor series of e^(2x) - 1, so that small values keep their relative accuracy; elsewhere 1 - 2 / (e^(2|x|) + 1),
// where |x| is bounded so that nothing overflows.
fn w_tanh(x: f32) -> f32 {
    let a = abs(x);
    if (a < 0.35f) {
        let y = 2.0f * x;
        var p = 2.48015873e-5f;
        p = p * y + 1.98412698e-4f;
        p = p * y + 1.38888889e-3f;
        p = p * y + 8.33333333e-3f;
        p = p * y + 4.16666667e-2f;
        p = p * y + 1.66666667e-1f;
        p = p * y + 0.5f;
        let e = p * y * y + y;
        return e / (e + 2.0f);
    }
    let t = 1.0f - 2.0f / (w_exp(2.0f * min(a, 10.0f)) + 1.0f);
    let r = select(t, -t, x < 0.0f);
    return select(r, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
