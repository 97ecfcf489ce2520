// Stand-ins for what the generator writes for the subgroup body, so that it is valid WGSL alone: one row-major product.
const M: i32 = 64i;
const N: i32 = 64i;
const K: i32 = 64i;
const TILES_M: u32 = 4u;
const TILES_N: u32 = 2u;
const BATCHES: u32 = 1u;
const ROWS: i32 = 16i;
const QUADS: i32 = 1i;
const PARTS: i32 = 2i;
const STEPS: i32 = 2i;
const REST: i32 = 15i;
const ALONG_K: i32 = 1i;
const ALONG_ROWS: i32 = 0i;
const SUMS: i32 = 1i;
@group(0) @binding(0) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> s: array<vec4<f32>>;
fn base_a(batch: u32) -> i32 { return i32(batch) * M * K; }
fn base_b(batch: u32) -> i32 { return i32(batch) * K * N; }
fn load_a(base: i32, row0: i32, k: i32, p: i32, lane: i32) -> vec4<f32> { return a[(base + (row0 + 8i * p + lane) * K + k) / 4i]; }
fn load_b(base: i32, k: i32, col: i32) -> array<vec4<f32>, 4> {
    let at = (base + k * N + col) / 4i;
    return array<vec4<f32>, 4>(b[at], b[at + N / 4i], b[at + N / 2i], b[at + 3i * N / 4i]);
}
fn store_quad(batch: u32, row: i32, col: i32, value: vec4<f32>) { c[(i32(batch) * M * N + row * N + col) / 4i] = value; }
fn store_sums(batch: u32, first: i32, sums: vec4<f32>) { s[(i32(batch) * N + first) / 4i] = sums; }
fn group_number(group: vec3<u32>) -> u32 { return group.x; }
