// Stand-ins for what the generator writes, so that the files beside are valid WGSL alone: row sums of a row-major [OUTER, INNER] buffer.
struct Values { s0: f32 }
const OUTER: u32 = 4u;
const INNER: u32 = 16u;
const STARTS_WITH_ELEMENT: bool = false;
const SIZE: u32 = 64u;
const LANES: i32 = 4i;
const COLS: u32 = 16u;
const PARTS: u32 = 4u;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> source: array<f32>;
fn values(o: u32, r: u32) -> Values { return Values(source[o * INNER + r]); }
fn initial(v: Values) -> Values { return Values(0.0f); }
fn combine(a: Values, b: Values) -> Values { return Values(a.s0 + b.s0); }
fn store(o: u32, v: Values) { out[o] = v.s0; }
fn group_number(group: vec3<u32>) -> u32 { return group.x; }
fn column_values(o: u32, r: u32) -> array<Values, LANES> {
    return array<Values, LANES>(values(o, r), values(o + 1u, r), values(o + 2u, r), values(o + 3u, r));
}
