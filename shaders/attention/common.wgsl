// What all bodies share. Reads and writes no memory.
// A score that counts as none: finite, since WGSL may assume that infinities do not occur.
const LOWEST: f32 = -1e38f;

// e^x for x that is not above some tens; exactly 0 below -87. As `w_exp` with one scaling. NaN stays NaN.
fn exp_down(x: f32) -> f32 {
    let t = clamp(x, -87.0f, 87.0f);
    let n = floor(t * 1.44269504f + 0.5f);
    let r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    var p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    let y = ((p * r * r + r) + 1.0f) * bitcast<f32>(u32(i32(n) + 127i) << 23u);
    let down = select(y, 0.0f, x < -87.0f);
    return select(down, x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}

// By what to multiply a sum of values weighted by exponentials that add up to `sum`: 0 where no key is seen.
fn share_of(sum: f32) -> f32 {
    return select(1.0f / select(sum, 1.0f, sum == 0.0f), 0.0f, sum == 0.0f);
}

// The logarithm of a sum of exponentials, given relative to e^top; 0 where no key is seen.
fn log_of(top: f32, sum: f32) -> f32 {
    return select(top + w_log(sum), 0.0f, sum == 0.0f);
}

// Whether a query sees a key, apart from the mask.
fn sees(query: i32, key: i32) -> bool {
    return key >= first_key(query) && key < end_key(query);
}
