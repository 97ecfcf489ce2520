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
    // STEP divides K; several steps an iteration save the driver's work at its ends.
    for (var k0 = 0i; k0 < K; k0 += STEP) {
        for (var u = 0i; u < STEP; u++) { // unroll
            let k = k0 + u;
            var right: array<vec4<f32>, QUADS>;
            for (var q = 0i; q < QUADS; q++) { // unroll
                right[q] = vec4<f32>(
                    load_b(base_of_b, k, min(col0 + 32i * q, N - 1i)),
                    load_b(base_of_b, k, min(col0 + 32i * q + 8i, N - 1i)),
                    load_b(base_of_b, k, min(col0 + 32i * q + 16i, N - 1i)),
                    load_b(base_of_b, k, min(col0 + 32i * q + 24i, N - 1i)));
            }
            for (var r = 0i; r < ROWS; r += 8i) { // unroll
                let mine = load_a(base_of_a, min(row0 + r + i32(lane), M - 1i), k);
                // The lane of a broadcast must be a constant.
                let left = array<f32, 8>(
                    subgroupBroadcast(mine, 0u), subgroupBroadcast(mine, 1u),
                    subgroupBroadcast(mine, 2u), subgroupBroadcast(mine, 3u),
                    subgroupBroadcast(mine, 4u), subgroupBroadcast(mine, 5u),
                    subgroupBroadcast(mine, 6u), subgroupBroadcast(mine, 7u));
                for (var i = 0i; i < 8i; i++) { // unroll
                    for (var q = 0i; q < QUADS; q++) { // unroll
                        sum[r + i][q] += left[i] * right[q];
                    }
                }
            }
        }
    }
    for (var i = 0i; i < ROWS; i++) { // unroll
        if (row0 + i < M) {
            for (var q = 0i; q < QUADS; q++) { // unroll
                for (var j = 0i; j < 4i; j++) { // unroll
                    if (col0 + 32i * q + 8i * j < N) { store_c(batch, row0 + i, col0 + 32i * q + 8i * j, sum[i][q][j]); }
                }
            }
        }
    }
}
