// The remainder of a / b with the sign of a, as C's fmod. Reads and writes no memory.
// The quotient may be off by one where a / b rounds up to an integer; the remainder then has the wrong sign or size and is moved back.
// Exact while |a / b| < 2^23.
fn w_rem(a: f32, b: f32) -> f32 {
    let x = abs(a);
    let y = abs(b);
    var r = fma(-floor(x / y), y, x);
    if (r < 0.0f) { r = r + y; }
    if (r >= y) { r = r - y; }
    return select(r, -r, a < 0.0f);
}
