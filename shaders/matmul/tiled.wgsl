// Matrix product through workgroup memory, for real GPUs.
// Reads: `load_a`, `load_b`; a workgroup loads each element of its BLOCK x 16 and 16 x BLOCK tiles once per step of 16 along k, walking
// along the axis on which the operand is contiguous. Writes: `store_c` once per result; with SUMS = 1 the first row of tiles
// `store_sum` once per column, of which invocation (x, y) adds up steps y, y + 16, ... of k. Workgroup: 16 x 16 invocations that own
// BLOCK x BLOCK results, PART x PART an invocation (BLOCK = 16 PART), spaced by 16, so that neighbours store neighbouring columns.
// Shared memory: 2 * 16 * (BLOCK + 1) f32; the extra column keeps transposed writes off one bank.
var<workgroup> tile_a: array<f32, 16i * (BLOCK + 1i)>;
var<workgroup> tile_b: array<f32, 16i * (BLOCK + 1i)>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group);
    // Surplus workgroups of a folded grid repeat the last product and do not store it: they must not miss the barriers.
    let wanted = number / (TILES_M * TILES_N);
    let batch = min(wanted, BATCHES - 1u);
    let tile = number % (TILES_M * TILES_N);
    let row0 = i32(tile / TILES_N) * BLOCK;
    let col0 = i32(tile % TILES_N) * BLOCK;
    let base_of_a = base_a(batch);
    let base_of_b = base_b(batch);
    let l = i32(local);
    let x = l % 16i;
    let y = l / 16i;
    var sum: array<array<f32, PART>, PART>;
    var columns: array<f32, PART>;
    for (var k0 = 0i; k0 < K; k0 += 16i) {
        for (var p = 0i; p < PART; p++) { // unroll
            let e = p * 256i + l;
            let ka = select(e / BLOCK, e % 16i, A_ALONG_K);
            let ra = select(e % BLOCK, e / 16i, A_ALONG_K);
            var va = 0.0f;
            if (row0 + ra < M && k0 + ka < K) { va = load_a(base_of_a, row0 + ra, k0 + ka); }
            tile_a[ka * (BLOCK + 1i) + ra] = va;
            let kb = select(e / BLOCK, e % 16i, B_ALONG_K);
            let cb = select(e % BLOCK, e / 16i, B_ALONG_K);
            var vb = 0.0f;
            if (col0 + cb < N && k0 + kb < K) { vb = load_b(base_of_b, k0 + kb, col0 + cb); }
            tile_b[kb * (BLOCK + 1i) + cb] = vb;
        }
        workgroupBarrier();
        for (var once = 0i; once < SUMS; once++) { // unroll
            if (row0 == 0i) {
                for (var j = 0i; j < PART; j++) { // unroll
                    columns[j] += tile_b[y * (BLOCK + 1i) + x + 16i * j];
                }
            }
        }
        for (var k = 0i; k < 16i; k++) {
            var right: array<f32, PART>;
            for (var j = 0i; j < PART; j++) { // unroll
                right[j] = tile_b[k * (BLOCK + 1i) + x + 16i * j];
            }
            for (var i = 0i; i < PART; i++) { // unroll
                let left = tile_a[k * (BLOCK + 1i) + y + 16i * i];
                for (var j = 0i; j < PART; j++) { // unroll
                    sum[i][j] += left * right[j];
                }
            }
        }
        workgroupBarrier();
    }
    for (var once = 0i; once < SUMS; once++) { // unroll
        // The last step left the tiles free.
        for (var j = 0i; j < PART; j++) { // unroll
            tile_b[y * (BLOCK + 1i) + x + 16i * j] = columns[j];
        }
        workgroupBarrier();
        if (wanted < BATCHES && row0 == 0i && l < BLOCK && col0 + l < N) {
            var column = 0.0f;
            for (var r = 0i; r < 16i; r++) { // unroll
                column += tile_b[r * (BLOCK + 1i) + l];
            }
            store_sum(batch, col0 + l, column);
        }
    }
    for (var i = 0i; i < PART; i++) { // unroll
        for (var j = 0i; j < PART; j++) { // unroll
            let row = row0 + y + 16i * i;
            let col = col0 + x + 16i * j;
            if (wanted < BATCHES && row < M && col < N) { store_c(batch, row, col, sum[i][j]); }
        }
    }
}
