// Matrix product without workgroup memory, for adapters on which every load costs the same.
// Reads: `load_a`, `load_b`; each invocation owns ROWS x 4 QUADS results, and loads ROWS + 4 QUADS elements per step of k from memory.
// Writes: `store_c` once per result; with SUMS = 1 the first rows' invocations `store_sum` once per column.
// Workgroup: 8 x 8 invocations; columns of neighbours alternate, so that they load neighbouring elements.
// Rows and columns past the edge are computed from the last ones and not stored.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group);
    let batch = number / (TILES_M * TILES_N);
    if (batch >= BATCHES) { return; }
    let tile = number % (TILES_M * TILES_N);
    let row0 = i32(tile / TILES_N) * (8i * ROWS) + i32(local / 8u) * ROWS;
    let col0 = i32(tile % TILES_N) * (32i * QUADS) + i32(local % 8u);
    let base_of_a = base_a(batch);
    let base_of_b = base_b(batch);
    var sum: array<array<vec4<f32>, QUADS>, ROWS>;
    var columns: array<vec4<f32>, QUADS>;
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
                for (var once = 0i; once < SUMS; once++) { // unroll
                    columns[q] += right[q];
                }
            }
            for (var i = 0i; i < ROWS; i++) { // unroll
                let left = load_a(base_of_a, min(row0 + i, M - 1i), k);
                for (var q = 0i; q < QUADS; q++) { // unroll
                    sum[i][q] += left * right[q];
                }
            }
        }
    }
    for (var once = 0i; once < SUMS; once++) { // unroll
        for (var q = 0i; q < QUADS; q++) { // unroll
            for (var j = 0i; j < 4i; j++) { // unroll
                let col = col0 + 32i * q + 8i * j;
                if (row0 == 0i && col < N) { store_sum(batch, col, columns[q][j]); }
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
