// Stand-ins for what the generator writes, so that the files beside are valid WGSL alone.
alias Element = f32;
alias Id = i32;
const ROWS: u32 = 8u;
const ROW_LEN: u32 = 4u;
const COUNT: u32 = 16u;
const SIZE: u32 = 64u;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read> source: array<f32>;
@group(0) @binding(3) var<storage, read_write> chain: array<u32>;
fn row_of(id: Id) -> u32 { return u32(clamp(id, 0i, i32(ROWS) - 1i)); }
fn group_number(group: vec3<u32>) -> u32 { return group.x; }
