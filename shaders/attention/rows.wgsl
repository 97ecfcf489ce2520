// Attention without barriers, for software adapters. Each lane owns ROWS queries: their q, accumulators, running maximum and sum are
// private. Reads: `load_q` once per element; per step of SPAN keys a workgroup loads each element of k and v once, 8 at a
// time, and its lanes share them by broadcasts. Writes: `store_out`, `store_lse` once. Workgroup: 8 lanes, one subgroup, 8 ROWS queries of
// one head. Rows past the edge repeat the last one and are not stored.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group);
    if (number >= TOTAL) { return; }
    let lane = i32(local);
    let row0 = i32(number % TILES) * (8i * ROWS);
    let head = i32(number / TILES) % HEADS;
    let batch = i32(number / TILES) / HEADS;
    let q_base = base_q(batch, head);
    let k_base = base_k(batch, head / GROUP);
    let v_base = base_v(batch, head / GROUP);
    var q: array<array<f32, PADDED>, ROWS>;
    var acc: array<array<f32, PADDED>, ROWS>;
    var top: array<f32, ROWS>;
    var sum: array<f32, ROWS>;
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = min(row0 + 8i * r + lane, QUERIES - 1i);
        top[r] = 0.5f * LOWEST;
        for (var d = 0i; d < WIDTH; d++) { // unroll
            q[r][d] = load_q(q_base, row, d) * SCALE;
        }
    }
    let last = end_key(min(row0 + 8i * ROWS - 1i, QUERIES - 1i));
    for (var key0 = first_key(row0); key0 < last; key0 += SPAN) {
        var score: array<array<f32, SPAN>, ROWS>;
        for (var g = 0i; g < GATHERS; g++) { // unroll
            let mine_k = k_at(k_base, key0, 8i * g + lane);
            for (var i = 0i; i < 8i; i++) { // unroll
                let x = subgroupBroadcast(mine_k, u32(i));
                for (var r = 0i; r < ROWS; r++) { // unroll
                    score[r][(8i * g + i) % SPAN] += q[r][(8i * g + i) / SPAN] * x;
                }
            }
        }
        var present: array<bool, SPAN>;
        for (var j = 0i; j < SPAN; j++) { // unroll
            present[j] = there(batch, key0 + j);
        }
        for (var r = 0i; r < ROWS; r++) { // unroll
            let row = min(row0 + 8i * r + lane, QUERIES - 1i);
            var best = top[r];
            for (var j = 0i; j < SPAN; j++) { // unroll
                score[r][j] = select(LOWEST, score[r][j], present[j] && sees(row, key0 + j));
                best = max(best, score[r][j]);
            }
            let shrink = exp_down(top[r] - best);
            top[r] = best;
            sum[r] *= shrink;
            for (var j = 0i; j < SPAN; j++) { // unroll
                score[r][j] = exp_down(score[r][j] - best);
                sum[r] += score[r][j];
            }
            for (var d = 0i; d < WIDTH; d++) { // unroll
                acc[r][d] *= shrink;
            }
        }
        for (var g = 0i; g < GATHERS; g++) { // unroll
            let mine_v = v_at(v_base, key0, 8i * g + lane);
            for (var i = 0i; i < 8i; i++) { // unroll
                let x = subgroupBroadcast(mine_v, u32(i));
                for (var r = 0i; r < ROWS; r++) { // unroll
                    acc[r][(8i * g + i) / SPAN] += score[r][(8i * g + i) % SPAN] * x;
                }
            }
        }
    }
    let out_base = base_out(batch, head);
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = row0 + 8i * r + lane;
        if (row < QUERIES) {
            let factor = share_of(sum[r]);
            for (var d = 0i; d < WIDTH; d++) { // unroll
                store_out(out_base, row, d, acc[r][d] * factor);
            }
            store_lse(batch, head, row, log_of(top[r], sum[r]));
        }
    }
}
