// Attention through workgroup memory, for real GPUs: blocks of BLOCK queries against blocks of BLOCK keys, with a running maximum and sum
// (Dao et al., 2022). Reads: `load_q` and `load_k` once per pair of blocks, in steps of 16 along the width; `load_v` once.
// Writes: `store_out`, `store_lse` once. Workgroup: 16 x 16 invocations that own BLOCK queries of one head; blocks of keys that causality or
// the window exclude are skipped.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // Surplus workgroups of a folded grid repeat the last block and do not store it: they must not miss the barriers.
    let wanted = group_number(group);
    let number = min(wanted, TOTAL - 1u);
    let l = i32(local);
    let x = l % 16i;
    let y = l / 16i;
    // Late queries see most keys under causality: they come first.
    let row0 = i32(TILES - 1u - number % TILES) * BLOCK;
    let head = i32(number / TILES) % HEADS;
    let batch = i32(number / TILES) / HEADS;
    let q_base = base_q(batch, head);
    let k_base = base_k(batch, head / GROUP);
    let v_base = base_v(batch, head / GROUP);
    var acc: Rows;
    var top: array<f32, PART>;
    var sum: array<f32, PART>;
    for (var i = 0i; i < PART; i++) { // unroll
        top[i] = 0.5f * LOWEST;
    }
    let last = end_key(min(row0 + BLOCK - 1i, QUERIES - 1i));
    for (var key0 = first_key(row0); key0 < last; key0 += BLOCK) {
        var score = scores(l, q_base, row0, k_base, key0);
        for (var i = 0i; i < PART; i++) { // unroll
            var best = LOWEST;
            for (var j = 0i; j < PART; j++) { // unroll
                let key = key0 + x + 16i * j;
                score[i][j] = select(LOWEST, score[i][j] * SCALE, sees(row0 + y + 16i * i, key) && there(batch, key));
                best = max(best, score[i][j]);
            }
            weights[(y + 16i * i) * (BLOCK + 1i) + x] = best;
        }
        workgroupBarrier();
        for (var i = 0i; i < PART; i++) { // unroll
            var best = top[i];
            for (var j = 0i; j < 16i; j++) {
                best = max(best, weights[(y + 16i * i) * (BLOCK + 1i) + j]);
            }
            let shrink = exp_down(top[i] - best);
            top[i] = best;
            sum[i] *= shrink;
            for (var c = 0i; c < COLUMNS; c++) { // unroll
                acc[i][c] *= shrink;
            }
        }
        workgroupBarrier();
        for (var i = 0i; i < PART; i++) { // unroll
            for (var j = 0i; j < PART; j++) { // unroll
                let p = exp_down(score[i][j] - top[i]);
                sum[i] += p;
                weights[(y + 16i * i) * (BLOCK + 1i) + x + 16i * j] = p;
            }
        }
        add_values(l, v_base, key0, &acc);
    }
    workgroupBarrier();
    for (var i = 0i; i < PART; i++) { // unroll
        weights[(y + 16i * i) * (BLOCK + 1i) + x] = sum[i];
    }
    workgroupBarrier();
    let out_base = base_out(batch, head);
    for (var i = 0i; i < PART; i++) { // unroll
        let row = row0 + y + 16i * i;
        var all = 0.0f;
        for (var j = 0i; j < 16i; j++) {
            all += weights[(y + 16i * i) * (BLOCK + 1i) + j];
        }
        if (wanted < TOTAL && row < QUERIES) {
            let factor = share_of(all);
            for (var c = 0i; c < COLUMNS; c++) { // unroll
                let d = 16i * c + x;
                if (d < WIDTH) { store_out(row_out(out_base, row), d, acc[i][c] * factor); }
            }
            if (x == 0i) { store_lse(batch, head, row, log_of(top[i], all)); }
        }
    }
}
