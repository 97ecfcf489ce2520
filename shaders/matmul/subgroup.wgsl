// Matrix product by shuffles within a subgroup of 8, for adapters on which every load costs the same (Mesa's lavapipe).
// Reads: `load_a`, `load_b`; per four steps of k each invocation loads PARTS = ROWS / 8 vec4 of A, which its subgroup shares by shuffles, and
// 4 QUADS vec4 of B. Writes: `store_quad` once per four neighbouring results of a row; with SUMS = 1 the first row of tiles
// `store_sums` once per four columns (all tiles add them up: lanes would only be masked). Workgroup: one subgroup of 8 lanes that owns
// ROWS x 32 QUADS results, ROWS x 4 QUADS a lane. A vec4 of A lies along k (ALONG_K = 1: lane l has row 8 p + l) or along the rows
// (ALONG_ROWS = 1: STEPS = 32 / ROWS steps of k to a vec4 of all lanes). Rows and columns past the edge are computed from others and not stored.
// Why it is fast there: a load is a loop over the lanes, which a vec4 pays once for four elements; a shuffle by a constant is one
// instruction; four steps of k an iteration save masked writes of the sums at its end; the stores are one loop through which the sums
// move, so that the epilogue is compiled once.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let number = group_number(group);
    let batch = number / (TILES_M * TILES_N);
    if (batch >= BATCHES) { return; }
    let tile = number % (TILES_M * TILES_N);
    let row0 = i32(tile / TILES_N) * ROWS;
    let col0 = i32(tile % TILES_N) * (32i * QUADS) + 4i * i32(lane);
    let base_of_a = base_a(batch);
    let base_of_b = base_b(batch);
    var sum: array<array<vec4<f32>, QUADS>, ROWS>;
    var columns: array<vec4<f32>, QUADS>;
    for (var k = 0i; k < K; k += 4i) {
        var left: array<vec4<f32>, PARTS>;
        for (var p = 0i; p < PARTS; p++) { // unroll
            left[p] = load_a(base_of_a, row0, k, p, i32(lane));
        }
        var right: array<array<vec4<f32>, 4>, QUADS>;
        for (var q = 0i; q < QUADS; q++) { // unroll
            right[q] = load_b(base_of_b, k, col0 + 32i * q);
            for (var once = 0i; once < SUMS; once++) { // unroll
                columns[q] += (right[q][0] + right[q][1]) + (right[q][2] + right[q][3]);
            }
        }
        for (var i = 0i; i < ROWS; i++) { // unroll
            var l: vec4<f32>;
            for (var u = 0i; u < 4i; u++) { // unroll
                l[u] = subgroupShuffle(
                    left[ALONG_K * (i / 8i) + ALONG_ROWS * (u / STEPS)][ALONG_K * u + ALONG_ROWS * (i % 4i)],
                    u32(ALONG_K * (i % 8i) + ALONG_ROWS * ((u % STEPS) * (ROWS / 4i) + i / 4i)));
            }
            for (var q = 0i; q < QUADS; q++) { // unroll
                sum[i][q] = sum[i][q] + l[0] * right[q][0] + l[1] * right[q][1] + l[2] * right[q][2] + l[3] * right[q][3];
            }
        }
    }
    for (var once = 0i; once < SUMS; once++) { // unroll
        for (var q = 0i; q < QUADS; q++) { // unroll
            if (row0 == 0i && col0 + 32i * q < N) { store_sums(batch, col0 + 32i * q, columns[q]); }
        }
    }
    for (var i = 0i; i < ROWS; i++) {
        if (row0 + i < M) {
            for (var q = 0i; q < QUADS; q++) { // unroll
                if (col0 + 32i * q < N) { store_quad(batch, row0 + i, col0 + 32i * q, sum[0][q]); }
            }
        }
        // The next row moves to the front: with constant indices alone the sums stay in registers.
        for (var r = 0i; r < REST; r++) { // unroll
            for (var q = 0i; q < QUADS; q++) { // unroll
                sum[r][q] = sum[r + 1i][q];
            }
        }
    }
}
