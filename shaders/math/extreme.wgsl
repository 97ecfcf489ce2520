// The larger and the smaller of two numbers, NaN where either is one, and which numbers are ones. The builtin functions may drop a
// NaN, and comparisons may assume that there is none: the bits tell. Reads and writes no memory.
fn w_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
fn w_is_infinite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}
// Without their signs, NaNs have the largest bits.
fn w_larger_size(a: f32, b: f32) -> u32 {
    return max(bitcast<u32>(a) & 0x7fffffffu, bitcast<u32>(b) & 0x7fffffffu);
}
fn w_max(a: f32, b: f32) -> f32 {
    let size = w_larger_size(a, b);
    return select(max(a, b), bitcast<f32>(size), size > 0x7f800000u);
}
fn w_min(a: f32, b: f32) -> f32 {
    let size = w_larger_size(a, b);
    return select(min(a, b), bitcast<f32>(size), size > 0x7f800000u);
}
