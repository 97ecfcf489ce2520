// Infinities and NaN. WGSL has no literal for them and refuses constant expressions that yield them, so their bits pass through
// a variable. Reads and writes no memory.
var<private> w_zero_bits: u32 = 0u;
fn w_special(bits: u32) -> f32 {
    return bitcast<f32>(bits | w_zero_bits);
}
