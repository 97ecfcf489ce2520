// The gradient of attention with respect to its queries, without barriers, and `delta` for the other gradients. Each lane owns ROWS
// queries: q, the cotangent and the result are private. Reads: per step of SPAN keys a workgroup loads each element of k and v
// once, 8 at a time, and its lanes share them by broadcasts. Writes: `store_grad_q`, `store_delta` once. Workgroup: 8 lanes, one
// subgroup, 8 ROWS queries of one head.
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
    let out_base = base_out(batch, head);
    let grad_out_base = base_grad_out(batch, head);
    var q: array<array<f32, PADDED>, ROWS>;
    var cotangent: array<array<f32, PADDED>, ROWS>;
    var acc: array<array<f32, PADDED>, ROWS>;
    var delta: array<f32, ROWS>;
    var lse: array<f32, ROWS>;
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = min(row0 + 8i * r + lane, QUERIES - 1i);
        lse[r] = load_lse(batch, head, row);
        for (var d = 0i; d < WIDTH; d++) { // unroll
            q[r][d] = load_q(q_base, row, d) * SCALE;
            cotangent[r][d] = load_grad_out(grad_out_base, row, d);
            delta[r] += cotangent[r][d] * load_out(out_base, row, d);
        }
    }
    let last = end_key(min(row0 + 8i * ROWS - 1i, QUERIES - 1i));
    for (var key0 = first_key(row0); key0 < last; key0 += SPAN) {
        var score: array<array<f32, SPAN>, ROWS>;
        var slope: array<array<f32, SPAN>, ROWS>;
        var kept: array<f32, GATHERS>;
        for (var g = 0i; g < GATHERS; g++) { // unroll
            let mine_k = k_at(k_base, key0, 8i * g + lane);
            let mine_v = v_at(v_base, key0, 8i * g + lane);
            kept[g] = mine_k;
            for (var i = 0i; i < 8i; i++) { // unroll
                let x = subgroupBroadcast(mine_k, u32(i));
                let y = subgroupBroadcast(mine_v, u32(i));
                for (var r = 0i; r < ROWS; r++) { // unroll
                    score[r][(8i * g + i) % SPAN] += q[r][(8i * g + i) / SPAN] * x;
                    slope[r][(8i * g + i) % SPAN] += cotangent[r][(8i * g + i) / SPAN] * y;
                }
            }
        }
        var present: array<bool, SPAN>;
        for (var j = 0i; j < SPAN; j++) { // unroll
            present[j] = there(batch, key0 + j);
        }
        for (var r = 0i; r < ROWS; r++) { // unroll
            let row = min(row0 + 8i * r + lane, QUERIES - 1i);
            for (var j = 0i; j < SPAN; j++) { // unroll
                let p = select(0.0f, exp_down(score[r][j] - lse[r]), present[j] && sees(row, key0 + j));
                slope[r][j] = p * (slope[r][j] - delta[r]);
            }
        }
        for (var g = 0i; g < GATHERS; g++) { // unroll
            let mine_k = kept[g];
            for (var i = 0i; i < 8i; i++) { // unroll
                let x = subgroupBroadcast(mine_k, u32(i));
                for (var r = 0i; r < ROWS; r++) { // unroll
                    acc[r][(8i * g + i) / SPAN] += slope[r][(8i * g + i) % SPAN] * x;
                }
            }
        }
    }
    let grad_q_base = base_grad_q(batch, head);
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = row0 + 8i * r + lane;
        if (row < QUERIES) {
            for (var d = 0i; d < WIDTH; d++) { // unroll
                store_grad_q(grad_q_base, row, d, acc[r][d] * SCALE);
            }
            store_delta(batch, head, row, delta[r]);
        }
    }
}
