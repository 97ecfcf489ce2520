// What the bodies for real GPUs share: two tiles in workgroup memory, `tile` for operands and `weights` for the scores of BLOCK rows and
// BLOCK columns. Workgroup: 16 x 16 invocations; (x, y) = (l % 16, l / 16) owns rows y + 16 i and columns x + 16 j.
// Rows of `tile` are 17 or 33 elements apart, those of `weights` BLOCK + 1, so that neighbours meet different banks.
// Shared memory: (34 + BLOCK + 1) BLOCK f32.
var<workgroup> tile: array<f32, 34i * BLOCK>;
var<workgroup> weights: array<f32, BLOCK * (BLOCK + 1i)>;
alias Part = array<array<f32, PART>, PART>;
alias Rows = array<array<f32, COLUMNS>, PART>;
