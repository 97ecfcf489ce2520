// Matrix product by cooperative matrices of SIZE x SIZE, which a subgroup holds and multiplies together: for adapters that have them.
// Reads: `load_a`, `load_b`; a workgroup loads each element of its BLOCK x 16 and 16 x BLOCK tiles once per step of 16 along k, walking
// along the axis on which the operand is contiguous, as `Element`s (f32, or f16: sums are f32). Writes: `store_c` once per result; with
// SUMS = 1 the first row of tiles `store_sum` once per column, of which invocation l adds up steps l / BLOCK, l / BLOCK + THREADS / BLOCK, ...
// of k. Workgroup: four subgroups of THREADS / 4, each of which owns a quarter of BLOCK x BLOCK results, SIDE x SIDE (BLOCK = 2 SIDE), as
// PARTS x PARTS matrices. Subgroups differ in addresses alone: all walk through the same control flow, as these operations ask.
// Shared memory: 2 * 16 * BLOCK `Element`s, and a strip of 4 * SIZE * SIDE f32 through which results leave the matrices, whose layout in
// registers is the driver's own.
var<workgroup> tile_a: array<Element, BLOCK * 16i>;
var<workgroup> tile_b: array<Element, 16i * BLOCK>;
var<workgroup> strip: array<f32, 4i * SIZE * SIDE>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32,
        @builtin(subgroup_id) subgroup: u32) {
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
    let quarter = i32(subgroup);
    let top = (quarter / 2i) * SIDE;
    let left = (quarter % 2i) * SIDE;
    // Matrices begin as zeros in memory do.
    for (var e = l; e < 4i * SIZE * SIDE; e += THREADS) { strip[e] = 0.0f; }
    workgroupBarrier();
    var sum: array<array<Sum, PARTS>, PARTS>;
    for (var i = 0i; i < PARTS; i++) { // unroll
        for (var j = 0i; j < PARTS; j++) { // unroll
            sum[i][j] = coopLoadT<Sum>(&strip[0], u32(SIZE));
        }
    }
    var column = 0.0f;
    for (var k0 = 0i; k0 < K; k0 += 16i) {
        for (var e = l; e < 16i * BLOCK; e += THREADS) {
            let ka = select(e / BLOCK, e % 16i, A_ALONG_K);
            let ra = select(e % BLOCK, e / 16i, A_ALONG_K);
            var va = 0.0f;
            if (row0 + ra < M && k0 + ka < K) { va = load_a(base_of_a, row0 + ra, k0 + ka); }
            tile_a[ra * 16i + ka] = Element(va);
            let kb = select(e / BLOCK, e % 16i, B_ALONG_K);
            let cb = select(e % BLOCK, e / 16i, B_ALONG_K);
            var vb = 0.0f;
            if (col0 + cb < N && k0 + kb < K) { vb = load_b(base_of_b, k0 + kb, col0 + cb); }
            tile_b[kb * BLOCK + cb] = Element(vb);
        }
        workgroupBarrier();
        for (var once = 0i; once < SUMS; once++) { // unroll
            for (var k = l / BLOCK; k < 16i; k += THREADS / BLOCK) {
                column += f32(tile_b[k * BLOCK + l % BLOCK]);
            }
        }
        for (var step = 0i; step < STEPS; step++) { // unroll
            var right: array<Right, PARTS>;
            for (var j = 0i; j < PARTS; j++) { // unroll
                right[j] = coopLoadT<Right>(&tile_b[SIZE * step * BLOCK + left + SIZE * j], u32(BLOCK));
            }
            for (var i = 0i; i < PARTS; i++) { // unroll
                let lefts = coopLoadT<Left>(&tile_a[(top + SIZE * i) * 16i + SIZE * step], 16u);
                for (var j = 0i; j < PARTS; j++) { // unroll
                    sum[i][j] = coopMultiplyAdd(lefts, right[j], sum[i][j]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var once = 0i; once < SUMS; once++) { // unroll
        strip[l] = column;
        workgroupBarrier();
        if (wanted < BATCHES && row0 == 0i && l < BLOCK && col0 + l < N) {
            var total = strip[l];
            for (var other = l + BLOCK; other < THREADS; other += BLOCK) { total += strip[other]; }
            store_sum(batch, col0 + l, total);
        }
        workgroupBarrier();
    }
    for (var i = 0i; i < PARTS; i++) { // unroll
        for (var j = 0i; j < PARTS; j++) { // unroll
            coopStoreT(sum[i][j], &strip[quarter * SIZE * SIDE + SIZE * j], u32(SIDE));
        }
        workgroupBarrier();
        for (var e = l; e < 4i * SIZE * SIDE; e += THREADS) {
            let q = e / (SIZE * SIDE);
            let row = row0 + (q / 2i) * SIDE + SIZE * i + (e % (SIZE * SIDE)) / SIDE;
            let col = col0 + (q % 2i) * SIDE + e % SIDE;
            if (wanted < BATCHES && row < M && col < N) { store_c(batch, row, col, strip[e]); }
        }
        workgroupBarrier();
    }
}
