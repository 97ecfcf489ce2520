// The gradients of attention with respect to keys and values, without barriers. Each lane owns ROWS keys: k, v and both results are
// private. Reads: per step of SPAN queries a workgroup loads each element of q and of the cotangent once, 8 at a time, and
// its lanes share them by broadcasts; the query heads of the group follow each other. Writes: `store_grad_k`, `store_grad_v` once. Workgroup:
// 8 lanes, one subgroup, 8 ROWS keys of one key head.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group);
    if (number >= TOTAL) { return; }
    let lane = i32(local);
    let row0 = i32(number % TILES) * (8i * ROWS);
    let kv_head = i32(number / TILES) % (HEADS / GROUP);
    let batch = i32(number / TILES) / (HEADS / GROUP);
    let k_base = base_k(batch, kv_head);
    let v_base = base_v(batch, kv_head);
    var k: array<array<f32, PADDED>, ROWS>;
    var v: array<array<f32, PADDED>, ROWS>;
    var acc_k: array<array<f32, PADDED>, ROWS>;
    var acc_v: array<array<f32, PADDED>, ROWS>;
    var present: array<bool, ROWS>;
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = min(row0 + 8i * r + lane, KEYS - 1i);
        present[r] = there(batch, row);
        for (var d = 0i; d < WIDTH; d++) { // unroll
            k[r][d] = load_k(k_base, row, d) * SCALE;
            v[r][d] = load_v(v_base, row, d);
        }
    }
    let first = first_query(row0);
    let last = end_query(min(row0 + 8i * ROWS - 1i, KEYS - 1i));
    for (var head = kv_head * GROUP; head < (kv_head + 1i) * GROUP; head++) {
        let q_base = base_q(batch, head);
        let grad_out_base = base_grad_out(batch, head);
        for (var query0 = first; query0 < last; query0 += SPAN) {
            var score: array<array<f32, SPAN>, ROWS>;
            var slope: array<array<f32, SPAN>, ROWS>;
            var kept_q: array<f32, GATHERS>;
            var kept_g: array<f32, GATHERS>;
            for (var g = 0i; g < GATHERS; g++) { // unroll
                let mine_q = q_at(q_base, query0, 8i * g + lane);
                let mine_g = grad_out_at(grad_out_base, query0, 8i * g + lane);
                kept_q[g] = mine_q;
                kept_g[g] = mine_g;
                for (var i = 0i; i < 8i; i++) { // unroll
                    let x = subgroupBroadcast(mine_q, u32(i));
                    let y = subgroupBroadcast(mine_g, u32(i));
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        score[r][(8i * g + i) % SPAN] += k[r][(8i * g + i) / SPAN] * x;
                        slope[r][(8i * g + i) % SPAN] += v[r][(8i * g + i) / SPAN] * y;
                    }
                }
            }
            let mine_lse = load_lse(batch, head, min(query0 + lane % SPAN, QUERIES - 1i));
            let mine_delta = load_delta(batch, head, min(query0 + lane % SPAN, QUERIES - 1i));
            for (var j = 0i; j < SPAN; j++) { // unroll
                let lse = subgroupBroadcast(mine_lse, u32(j));
                let delta = subgroupBroadcast(mine_delta, u32(j));
                for (var r = 0i; r < ROWS; r++) { // unroll
                    let row = min(row0 + 8i * r + lane, KEYS - 1i);
                    let seen = present[r] && query0 + j < QUERIES && sees(query0 + j, row);
                    score[r][j] = select(0.0f, exp_down(score[r][j] - lse), seen);
                    slope[r][j] = score[r][j] * (slope[r][j] - delta);
                }
            }
            for (var g = 0i; g < GATHERS; g++) { // unroll
                let mine_q = kept_q[g];
                let mine_g = kept_g[g];
                for (var i = 0i; i < 8i; i++) { // unroll
                    let x = subgroupBroadcast(mine_q, u32(i));
                    let y = subgroupBroadcast(mine_g, u32(i));
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        acc_k[r][(8i * g + i) / SPAN] += slope[r][(8i * g + i) % SPAN] * x;
                        acc_v[r][(8i * g + i) / SPAN] += score[r][(8i * g + i) % SPAN] * y;
                    }
                }
            }
        }
    }
    let grad_k_base = base_grad_k(batch, kv_head);
    let grad_v_base = base_grad_v(batch, kv_head);
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = row0 + 8i * r + lane;
        if (row < KEYS) {
            for (var d = 0i; d < WIDTH; d++) { // unroll
                store_grad_k(grad_k_base, row, d, acc_k[r][d] * SCALE);
                store_grad_v(grad_v_base, row, d, acc_v[r][d]);
            }
        }
    }
}
