// The gradient of attention with respect to its queries, without barriers, and `delta` for the other gradients. A load is a
// loop over the lanes there, which a vec4 pays once for four elements. Each lane owns ROWS queries; a step meets SPAN keys.
// Reads: per four columns of a step each lane loads its q and cotangent, one element of k (twice) and of v for every 8 keys,
// which the lanes share by broadcasts, and its part of the result, which grows in place. Writes: `store_grad_q` once per
// step, `store_delta` once. Workgroup: 8 lanes, one subgroup, 8 ROWS queries of one head.
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let number = group_number(group);
    if (number >= TOTAL) { return; }
    let lane = i32(local);
    let row0 = i32(number % TILES) * (8i * ROWS);
    let head = i32(number / TILES) % HEADS;
    let batch = i32(number / TILES) / HEADS;
    let k_base = base_k(batch, head / GROUP);
    let v_base = base_v(batch, head / GROUP);
    var q_row: array<i32, ROWS>;
    var grad_out_row: array<i32, ROWS>;
    var grad_q_row: array<i32, ROWS>;
    var delta: array<f32, ROWS>;
    var lse: array<f32, ROWS>;
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = min(row0 + 8i * r + lane, QUERIES - 1i);
        q_row[r] = row_q(base_q(batch, head), row);
        grad_out_row[r] = row_grad_out(base_grad_out(batch, head), row);
        grad_q_row[r] = row_grad_q(base_grad_q(batch, head), row);
        lse[r] = load_lse(batch, head, row);
        let out_row = row_out(base_out(batch, head), row);
        for (var d = 0i; d < WIDTH; d += 4i) {
            delta[r] += dot(load_grad_out(grad_out_row[r], d), load_out(out_row, d));
        }
        if (row0 + 8i * r + lane < QUERIES) { store_delta(batch, head, row, delta[r]); }
    }
    let first = first_key(row0);
    let last = end_key(min(row0 + 8i * ROWS - 1i, QUERIES - 1i));
    // One step at least, so that queries which see nothing get their zeros.
    for (var key0 = first; key0 < max(last, first + 1i); key0 += SPAN) {
        var score: array<array<f32, SPAN>, ROWS>;
        var slope: array<array<f32, SPAN>, ROWS>;
        for (var d = 0i; d < WIDTH; d += 4i) {
            var q: array<vec4<f32>, ROWS>;
            var cotangent: array<vec4<f32>, ROWS>;
            for (var r = 0i; r < ROWS; r++) { // unroll
                q[r] = load_q(q_row[r], d);
                cotangent[r] = load_grad_out(grad_out_row[r], d);
            }
            for (var s = 0i; s < SPAN; s += 8i) { // unroll
                let mine_k = load_k(row_k(k_base, min(key0 + s + lane, KEYS - 1i)), d);
                let mine_v = load_v(row_v(v_base, min(key0 + s + lane, KEYS - 1i)), d);
                for (var i = 0i; i < 8i; i++) { // unroll
                    let x = subgroupBroadcast(mine_k, u32(i));
                    let y = subgroupBroadcast(mine_v, u32(i));
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        score[r][s + i] += dot(q[r], x);
                        slope[r][s + i] += dot(cotangent[r], y);
                    }
                }
            }
        }
        for (var r = 0i; r < ROWS; r++) { // unroll
            let row = min(row0 + 8i * r + lane, QUERIES - 1i);
            let low = first_key(row) - key0;
            let high = end_key(row) - key0;
            for (var j = 0i; j < SPAN; j++) { // unroll
                let p = exp_down(score[r][j] * SCALE - lse[r]);
                let seen = j >= low && j < high && there(batch, key0 + j);
                slope[r][j] = select(0.0f, SCALE * p * (slope[r][j] - delta[r]), seen);
            }
        }
        for (var d = 0i; d < WIDTH; d += 4i) {
            var acc: array<vec4<f32>, ROWS>;
            for (var r = 0i; r < ROWS; r++) { // unroll
                acc[r] = select(load_grad_q(grad_q_row[r], d), vec4<f32>(), key0 == first);
            }
            for (var s = 0i; s < SPAN; s += 8i) { // unroll
                let mine_k = load_k(row_k(k_base, min(key0 + s + lane, KEYS - 1i)), d);
                for (var i = 0i; i < 8i; i++) { // unroll
                    let x = subgroupBroadcast(mine_k, u32(i));
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        acc[r] += slope[r][s + i] * x;
                    }
                }
            }
            for (var r = 0i; r < ROWS; r++) { // unroll
                if (row0 + 8i * r + lane < QUERIES) { store_grad_q(grad_q_row[r], d, acc[r]); }
            }
        }
    }
}
