"""Nobody who does not use an original has to have it, or to wait for its import."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ORIGINALS = (
    *("pytorch_metric_learning", "sentence_transformers", "torchreid", "tensorflow", "keras", "transformers"),
    *("torchmetrics", "lightning", "pytorch_lightning"),
)
#: The drop-ins that are on top of their original, and import it.
WITH_ORIGINAL = (
    *("keras", "lightning", "torchmetrics"),
    *(f"sentence_transformers.{name}" for name in ("evaluation", "label_retrieval", "retrieval")),
)


def loaded_by(*modules: str) -> str:
    code = f"import sys, {', '.join(modules)}; print(sorted(set({ORIGINALS}) & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout


def test_the_package_imports_no_original_and_no_drop_in():
    assert loaded_by("fasttriplet").strip() == "[]"
    code = "import sys, fasttriplet; print([name for name in sys.modules if name.startswith('fasttriplet.compat')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_the_drop_ins_import_no_original():
    files = (ROOT / "fasttriplet" / "compat").rglob("[a-z]*.py")
    names = [".".join(path.relative_to(ROOT / "fasttriplet" / "compat").with_suffix("").parts) for path in files]
    assert set(WITH_ORIGINAL) <= set(names)
    names = [name for name in names if name not in WITH_ORIGINAL]
    assert {
        "pml",
        "sentence_transformers.batch",
        "sentence_transformers.triplet",
        "torchreid",
        "fastreid",
        "tfa",
    } <= set(names)
    assert loaded_by(*(f"fasttriplet.compat.{name}" for name in names)).strip() == "[]"
