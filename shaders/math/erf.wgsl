// The error function. Reads and writes no memory. Needs exp.wgsl.
// |x| < 1: the Taylor series to x^19, relative error 2e-7. Elsewhere 1 - e^(p(|x|) - x^2), where p interpolates ln erfc(t) + t^2 at the
// Chebyshev points of [1, 4]; absolute error 1e-7. Beyond 4 the result is 1.
fn w_erf(x: f32) -> f32 {
    let t = abs(x);
    if (t < 1.0f) {
        let z = x * x;
        var p = -1.63658441e-7f;
        p = p * z + 1.64621144e-6f;
        p = p * z - 1.49256502e-5f;
        p = p * z + 1.20553326e-4f;
        p = p * z - 8.54832702e-4f;
        p = p * z + 5.22397785e-3f;
        p = p * z - 2.68661715e-2f;
        p = p * z + 1.12837918e-1f;
        p = p * z - 3.76126379e-1f;
        p = p * z + 1.12837923f;
        return p * x;
    }
    let u = min(t, 4.0f);
    var q = -1.32801279e-5f;
    q = q * u + 3.17264639e-4f;
    q = q * u - 3.4362236e-3f;
    q = q * u + 2.26261597e-2f;
    q = q * u - 1.03344753e-1f;
    q = q * u + 3.60963374e-1f;
    q = q * u - 1.12598276f;
    q = q * u - 7.35425798e-4f;
    let r = 1.0f - w_exp(q - u * u);
    let signed = select(r, -r, x < 0.0f);
    return select(signed, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
