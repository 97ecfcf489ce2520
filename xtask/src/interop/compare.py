"""Loads each folder by the class that its config.json names, and compares with what is in its io.safetensors."""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

transformers.utils.logging.set_verbosity_error()
failed = 0
for folder in map(pathlib.Path, sys.argv[1:]):
    config = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model, info = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    problems = {key: sorted(map(str, names)) for key, names in info.items() if names}
    io = load_file(folder / "io.safetensors")
    inputs = {name[3:]: t.long() for name, t in io.items() if name.startswith("in.")}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    worst = 0.0
    for name, expected in ((name[4:], t) for name, t in io.items() if name.startswith("out.")):
        found = outputs[name]
        error = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        worst = max(worst, error / max(1.0, float(found.abs().max())))
    if "beams" in io:
        encoder = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        found = model.generate(**encoder, num_beams=4, max_new_tokens=6, do_sample=False)
        if found.tolist() != io["beams"].tolist():
            problems["beams"] = [found.tolist(), io["beams"].tolist()]
    ok = not problems and worst <= 1e-5
    failed += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {folder.name} ({kind.__name__}): largest difference {worst:.1e} {problems or ''}")
sys.exit(1 if failed else 0)
