// Conversions from f32 that truncate and saturate over the whole integer range; NaN gives 0 or a bound. WGSL's own conversion saturates
// at the largest f32 below the bound. Reads and writes no memory.
fn w_to_i32(x: f32) -> i32 {
    return select(i32(clamp(x, -2147483648.0f, 2147483520.0f)), 2147483647i, x >= 2147483648.0f);
}
fn w_to_u32(x: f32) -> u32 {
    return select(u32(clamp(x, 0.0f, 4294967040.0f)), 4294967295u, x >= 4294967296.0f);
}
