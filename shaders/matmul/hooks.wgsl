// Stand-ins for what the generator writes, so that the files beside are valid WGSL alone: one row-major product.
const M: i32 = 64i;
const N: i32 = 64i;
const K: i32 = 64i;
const TILES_M: u32 = 1u;
const TILES_N: u32 = 1u;
const BATCHES: u32 = 1u;
const STEP: i32 = 4i;
const ROWS: i32 = 8i;
const QUADS: i32 = 1i;
const BLOCK: i32 = 64i;
const PART: i32 = 4i;
const A_ALONG_K: bool = true;
const B_ALONG_K: bool = false;
const SUMS: i32 = 1i;
@group(0) @binding(0) var<storage, read_write> c: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> s: array<f32>;
fn base_a(batch: u32) -> i32 { return i32(batch) * M * K; }
fn base_b(batch: u32) -> i32 { return i32(batch) * K * N; }
fn load_a(base: i32, row: i32, k: i32) -> f32 { return a[base + row * K + k]; }
fn load_b(base: i32, k: i32, col: i32) -> f32 { return b[base + k * N + col]; }
fn store_c(batch: u32, row: i32, col: i32, value: f32) { c[i32(batch) * M * N + row * N + col] = value; }
fn store_sum(batch: u32, col: i32, sum: f32) { s[i32(batch) * N + col] = sum; }
fn group_number(group: vec3<u32>) -> u32 { return group.x; }
