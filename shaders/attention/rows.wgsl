// Attention without barriers, for software adapters, on which every load costs the same and code is dear to compile. A load
// is a loop over the lanes there, which a vec4 pays once for four elements. Each lane owns ROWS queries; a step meets SPAN
// keys. Reads: per four columns of a step each lane loads its q, one element of k and of v for every 8 keys, which the lanes
// share by broadcasts, and its part of the result, which grows in place. Writes: `store_out` once per step and once at the
// end, `store_lse` once. Workgroup: 8 lanes, one subgroup, 8 ROWS queries of one head. Rows past the edge repeat the last
// one and are not stored.
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
    var out_row: array<i32, ROWS>;
    var top: array<f32, ROWS>;
    var sum: array<f32, ROWS>;
    var shrink: array<f32, ROWS>;
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = min(row0 + 8i * r + lane, QUERIES - 1i);
        q_row[r] = row_q(base_q(batch, head), row);
        out_row[r] = row_out(base_out(batch, head), row);
        top[r] = 0.5f * LOWEST;
    }
    let first = first_key(row0);
    let last = end_key(min(row0 + 8i * ROWS - 1i, QUERIES - 1i));
    // One step at least, so that queries which see nothing get their zeros.
    for (var key0 = first; key0 < max(last, first + 1i); key0 += SPAN) {
        var score: array<array<f32, SPAN>, ROWS>;
        for (var d = 0i; d < WIDTH; d += 4i) {
            var q: array<vec4<f32>, ROWS>;
            for (var r = 0i; r < ROWS; r++) { // unroll
                q[r] = load_q(q_row[r], d);
            }
            for (var s = 0i; s < SPAN; s += 8i) { // unroll
                let mine_k = load_k(row_k(k_base, min(key0 + s + lane, KEYS - 1i)), d);
                for (var i = 0i; i < 8i; i++) { // unroll
                    let x = subgroupBroadcast(mine_k, u32(i));
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        score[r][s + i] += dot(q[r], x);
                    }
                }
            }
        }
        for (var r = 0i; r < ROWS; r++) { // unroll
            let row = min(row0 + 8i * r + lane, QUERIES - 1i);
            let low = first_key(row) - key0;
            let high = end_key(row) - key0;
            var best = top[r];
            for (var j = 0i; j < SPAN; j++) { // unroll
                score[r][j] = select(LOWEST, score[r][j] * SCALE, j >= low && j < high && there(batch, key0 + j));
                best = max(best, score[r][j]);
            }
            shrink[r] = exp_down(top[r] - best);
            top[r] = best;
            sum[r] *= shrink[r];
            for (var j = 0i; j < SPAN; j++) { // unroll
                score[r][j] = exp_down(score[r][j] - best);
                sum[r] += score[r][j];
            }
        }
        for (var d = 0i; d < WIDTH; d += 4i) {
            var acc: array<vec4<f32>, ROWS>;
            for (var r = 0i; r < ROWS; r++) { // unroll
                acc[r] = select(load_out(out_row[r], d) * shrink[r], vec4<f32>(), key0 == first);
            }
            for (var s = 0i; s < SPAN; s += 8i) { // unroll
                let mine_v = load_v(row_v(v_base, min(key0 + s + lane, KEYS - 1i)), d);
                for (var i = 0i; i < 8i; i++) { // unroll
                    let x = subgroupBroadcast(mine_v, u32(i));
                    for (var r = 0i; r < ROWS; r++) { // unroll
                        acc[r] += score[r][s + i] * x;
                    }
                }
            }
            for (var r = 0i; r < ROWS; r++) { // unroll
                if (row0 + 8i * r + lane < QUERIES) { store_out(out_row[r], d, acc[r]); }
            }
        }
    }
    for (var r = 0i; r < ROWS; r++) { // unroll
        let row = row0 + 8i * r + lane;
        if (row < QUERIES) {
            let factor = share_of(sum[r]);
            for (var d = 0i; d < WIDTH; d += 4i) {
                store_out(out_row[r], d, load_out(out_row[r], d) * factor);
            }
            store_lse(batch, head, row, log_of(top[r], sum[r]));
        }
    }
}
