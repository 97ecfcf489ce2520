// 16-bit floats, two to a word, the one at the even address low. Their bits are taken apart and put together as integers, so that the
// result is the same on every device: rounding is to the nearest, ties to even, and infinities, NaN and f16's subnormal numbers are
// kept. Reads and writes no memory.
fn w_half(word: u32, at: i32) -> u32 {
    return (word >> (16u * (u32(at) & 1u))) & 0xffffu;
}
fn w_from_bf16(half: u32) -> f32 {
    return bitcast<f32>(half << 16u);
}
fn w_to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(rounded, (bits >> 16u) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}
fn w_from_f16(half: u32) -> f32 {
    let size = half & 0x7fffu;
    let normal = (size << 13u) + 0x38000000u;
    let special = (size << 13u) + 0x70000000u;
    // Units of 2^-24.
    let small = bitcast<u32>(f32(min(size, 0x400u)) * 5.9604644775390625e-8f);
    let bits = select(select(normal, small, size < 0x400u), special, size >= 0x7c00u);
    return bitcast<f32>(((half & 0x8000u) << 16u) | bits);
}
fn w_to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let size = bits & 0x7fffffffu;
    let rebased = size - 0x38000000u;
    let normal = min((rebased + 0xfffu + ((rebased >> 13u) & 1u)) >> 13u, 0x7c00u);
    let small = u32(round(bitcast<f32>(min(size, 0x38800000u)) * 16777216.0f));
    let finite = select(normal, small, size < 0x38800000u);
    return ((bits >> 16u) & 0x8000u) | select(finite, 0x7e00u, size > 0x7f800000u);
}
