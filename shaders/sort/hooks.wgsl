// Stand-ins for what the generator writes, so that the files beside are valid WGSL alone.
const LEN: u32 = 100u;
const ELEMENTS: u32 = 200u;
const WIDTH: u32 = 64u;
const SIZE: u32 = 64u;
@group(0) @binding(0) var<storage, read> elements: array<u32>;
@group(0) @binding(1) var<storage, read> runs: array<u32>;
@group(0) @binding(2) var<storage, read_write> sorted: array<u32>;
fn key_of(word: u32) -> u32 { return word; }
fn group_number(group: vec3<u32>) -> u32 { return group.x; }
