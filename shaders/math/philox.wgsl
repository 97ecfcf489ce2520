// Philox4x32-10 (Salmon et al., SC 2011), the same words as `wgrad_ir::philox`. Reads and writes no memory.
// WGSL has no 64-bit product: the high half is put together from products of 16-bit halves.
fn w_mul_high(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let mid2 = al * bh + (mid & 0xffffu);
    return ah * bh + (mid >> 16u) + (mid2 >> 16u);
}
fn w_random_word(index: u32, stream: u32, step: u32, key_low: u32, key_high: u32) -> u32 {
    var c = vec4<u32>(index / 4u, stream, step, 0u);
    var k = vec2<u32>(key_low, key_high);
    for (var round = 0u; round < 10u; round++) {
        let h0 = w_mul_high(0xD2511F53u, c.x);
        let l0 = 0xD2511F53u * c.x;
        let h1 = w_mul_high(0xCD9E8D57u, c.z);
        let l1 = 0xCD9E8D57u * c.z;
        c = vec4<u32>(h1 ^ c.y ^ k.x, l1, h0 ^ c.w ^ k.y, l0);
        k = k + vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    let lane = index & 3u;
    return select(select(c.x, c.y, lane == 1u), select(c.z, c.w, lane == 3u), lane >= 2u);
}
fn w_uniform(word: u32) -> f32 {
    return f32(word >> 8u) * 5.9604644775390625e-8f;
}
