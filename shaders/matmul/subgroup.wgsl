// Matrix product by broadcasts within a subgroup of 8, for adapters on which every load costs the same (Mesa's lavapipe).
// Reads: `load_a`, `load_b`; per step of k each invocation loads ROWS / 8 elements of A, which its subgroup shares by broadcasts, and 4 QUADS
// of B. Writes: `store_c` once per result. Workgroup: one subgroup of 8 lanes that owns ROWS x 32 QUADS results, ROWS x 4 QUADS a lane.
// ROWS is a multiple of 8. Rows and columns past the edge are computed from the last ones and not stored.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let number = group_number(group);
    let batch = number / (TILES_M * TILES_N);
    if (batch >= BATCHES) { return; }
    let tile = number % (TILES_M * TILES_N);
    let row0 = i32(tile / TILES_N) * ROWS;
    let col0 = i32(tile % TILES_N) * (32i * QUADS) + i32(lane);
    let base_of_a = base_a(batch);
    let base_of_b = base_b(batch);
    var sum: array<array<vec4<f32>, QUADS>, ROWS>;
    for (var k = 0i; k < K; k++) {
        var right: array<vec4<f32>, QUADS>;
        for (var q = 0i; q < QUADS; q++) {
            right[q] = vec4<f32>(
                load_b(base_of_b, k, min(col0 + 32i * q, N - 1i)),
                load_b(base_of_b, k, min(col0 + 32i * q + 8i, N - 1i)),
                load_b(base_of_b, k, min(col0 + 32i * q + 16i, N - 1i)),
                load_b(base_of_b, k, min(col0 + 32i * q + 24i, N - 1i)));
        }
        for (var r = 0i; r < ROWS; r += 8i) {
            let mine = load_a(base_of_a, min(row0 + r + i32(lane), M - 1i), k);
            // The lane of a broadcast must be a constant.
            let left = array<f32, 8>(
                subgroupBroadcast(mine, 0u), subgroupBroadcast(mine, 1u),
                subgroupBroadcast(mine, 2u), subgroupBroadcast(mine, 3u),
                subgroupBroadcast(mine, 4u), subgroupBroadcast(mine, 5u),
                subgroupBroadcast(mine, 6u), subgroupBroadcast(mine, 7u));
            for (var i = 0i; i < 8i; i++) {
                for (var q = 0i; q < QUADS; q++) {
                    sum[r + i][q] = fma(vec4<f32>(left[i]), right[q], sum[r + i][q]);
                }
            }
        }
    }
    for (var i = 0i; i < ROWS; i++) {
        for (var q = 0i; q < QUADS; q++) {
            for (var j = 0i; j < 4i; j++) {
                let row = row0 + i;
                let col = col0 + 32i * q + 8i * j;
                if (row < M && col < N) { store_c(batch, row, col, sum[i][q][j]); }
            }
        }
    }
}
