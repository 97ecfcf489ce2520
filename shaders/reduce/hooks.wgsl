// Stand-ins for what the generator writes, so that the files beside are valid WGSL alone: row sums of a row-major [OUTER, INNER] buffer.
alias Element = f32;
const OUTER: u32 = 4u;
const INNER: u32 = 16u;
const STARTS_WITH_ELEMENT: bool = false;
const ZERO: Element = 0.0f;
const SIZE: u32 = 64u;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> source: array<f32>;
fn value(o: u32, r: u32) -> Element { return source[o * INNER + r]; }
fn combine(a: Element, b: Element) -> Element { return a + b; }
fn store(o: u32, v: Element) { out[o] = v; }
fn group_number(group: vec3<u32>) -> u32 { return group.x; }
