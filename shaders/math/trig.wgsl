// Sine and cosine in radians. Reads and writes no memory.
// x = k pi/2 + r with |r| <= pi/4 (pi/2 split in three), then Taylor polynomials (remainders below 3e-9). Absolute error about 1e-7 up to
// |x| = 10^4, growing beyond.
fn w_sin_quadrant(x: f32, quadrant: i32) -> f32 {
    let k = floor(x * 0.636619772f + 0.5f);
    let r = ((x - k * 1.5703125f) - k * 4.837512969970703125e-4f) - k * 7.5497899548918821e-8f;
    let z = r * r;
    var s = 2.75573192e-6f;
    s = s * z - 1.98412698e-4f;
    s = s * z + 8.33333333e-3f;
    s = s * z - 1.66666667e-1f;
    s = s * z * r + r;
    var c = -2.75573192e-7f;
    c = c * z + 2.48015873e-5f;
    c = c * z - 1.38888889e-3f;
    c = c * z + 4.16666667e-2f;
    c = (c * z - 0.5f) * z + 1.0f;
    let q = i32(k) + quadrant;
    let v = select(s, c, (q & 1i) == 1i);
    return select(v, -v, (q & 2i) == 2i);
}
fn w_sin(x: f32) -> f32 { return w_sin_quadrant(x, 0i); }
fn w_cos(x: f32) -> f32 { return w_sin_quadrant(x, 1i); }
