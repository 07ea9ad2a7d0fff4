"""Evaluators of retrieval for sentence-transformers, beside its own on the same model."""

import csv
import importlib
import inspect
import json
import logging
import runpy
import sys

import pytest
import torch

from fasttriplet.compat import sentence_transformers as compat
from fasttriplet.retrieval import retrieval_metrics
from tests.compat.sentences import WORDS, original, word_model

evaluation = original("evaluation")
util = pytest.importorskip("sentence_transformers.util")
FUNCTIONS = {"cosine": util.cos_sim, "dot": util.dot_score, "euclidean": util.euclidean_sim}


@pytest.fixture(scope="module")
def model():
    return word_model()


def text(number):
    """Words by the digits of a number, so that no two sentences have one embedding."""
    digits = [number // 9**place % 9 for place in range(3)]
    return " ".join(WORDS[digit] for digit in digits for _ in range(1 + digit % 2))


def task(queries=9, documents=60, seed=0):
    """Queries, corpus and relevant documents by id; ids of the corpus are not in their order."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(84, generator=generator).tolist()  # sorted digits: sentences whose means differ
    texts = [text(a + 9 * b + 81 * c) for a in range(9) for b in range(a, 9) for c in range(b, 9)]
    chosen = [texts[number] for number in numbers]
    corpus = {f"d{(7 * place) % documents}": chosen[place] for place in range(documents)}
    questions = {f"q{place}": chosen[documents + place] for place in range(queries)}
    ids, relevant = list(corpus), {}
    for place in range(queries - 1):  # the last has none
        some = torch.randperm(documents, generator=generator)[: 1 + 3 * place].tolist()
        relevant[f"q{place}"] = {ids[each] for each in some}
    relevant["q1"].add("not in the corpus")
    return questions, corpus, relevant


ARGUMENTS = [
    {},
    {"name": "dev", "corpus_chunk_size": 7},
    {"score_functions": FUNCTIONS, "main_score_function": "dot", "corpus_chunk_size": 23},
    {"score_functions": FUNCTIONS, "map_at_k": [1, 3, 100], "mrr_at_k": [2, 10], "ndcg_at_k": [1, 10, 200]},
    {"accuracy_at_k": [2], "precision_recall_at_k": [4, 90], "truncate_dim": 3, "batch_size": 2},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda each: "-".join(each) or "defaults")
def test_numbers_files_and_logs_are_the_originals(model, arguments, tmp_path, caplog):
    found = []
    for folder, module in (("ours", compat), ("theirs", evaluation)):
        evaluator = module.InformationRetrievalEvaluator(*task(), **arguments)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            metrics = [evaluator(model, str(tmp_path / folder), epoch, step) for epoch, step in ((-1, -1), (1, 20))]
        with open(tmp_path / folder / evaluator.csv_file, newline="") as file:
            table = list(csv.reader(file))
        logged = [record.message for record in caplog.records if "evaluation" in record.name or "fast" in record.name]
        config = evaluator.get_config_dict(), evaluator.description, evaluator.primary_metric, evaluator.csv_headers
        found.append((metrics, table, logged, config))
    ours, theirs = found
    for mine, its in zip(ours[0], theirs[0], strict=True):
        assert list(mine) == list(its)
        assert mine == pytest.approx(its, rel=0, abs=1e-6) and all(type(value) is float for value in mine.values())
    assert ours[1][0] == theirs[1][0] and len(ours[1]) == 3
    for mine, its in zip(ours[1][1:], theirs[1][1:], strict=True):
        assert [float(value) for value in mine] == pytest.approx([float(value) for value in its], rel=0, abs=1e-6)
    assert ours[2:] == theirs[2:]
    assert 0 < ours[0][0][ours[3][2]] < 1


def test_predictions_are_the_originals(model, tmp_path):
    lines = []
    for folder, module in (("ours", compat), ("theirs", evaluation)):
        (tmp_path / folder).mkdir()
        evaluator = module.InformationRetrievalEvaluator(
            *task(), write_predictions=True, score_functions=FUNCTIONS, map_at_k=[5], write_csv=False
        )
        evaluator(model, str(tmp_path / folder))
        names = sorted(path.name for path in (tmp_path / folder).iterdir())
        texts = {name: (tmp_path / folder / name).read_text().splitlines() for name in names}
        lines.append({name: [json.loads(line) for line in text] for name, text in texts.items()})
    ours, theirs = lines
    assert list(ours) == list(theirs) and len(ours) == 3
    for name in ours:
        for mine, its in zip(ours[name], theirs[name], strict=True):
            assert mine["query"] == its["query"] and mine["query_id"] == its["query_id"]
            assert len(mine["results"]) == 10
            for one, other in zip(mine["results"], its["results"], strict=True):
                assert one["corpus_id"] == other["corpus_id"]
                assert one["score"] == pytest.approx(other["score"], rel=0, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_ties_go_to_the_first_in_the_corpus(model, chunk):
    corpus = {"z": "cat", "a": "cat", "m": "dog", "b": "cat", "c": "cat"}
    for relevant, rank in (({"z"}, 1), ({"a"}, 2), ({"b"}, 3), ({"c"}, 4), ({"m"}, 5)):
        evaluator = compat.InformationRetrievalEvaluator(
            {"q": "cat"}, corpus, {"q": relevant}, corpus_chunk_size=chunk, mrr_at_k=[5]
        )
        assert evaluator(model)["cosine_mrr@5"] == 1 / rank


def with_rows(evaluator, query, similarity):
    """Of an evaluator that has one query, whose embedding is given as those of the documents are."""
    evaluator.embed_inputs = lambda *arguments, **told: query
    evaluator.score_functions, evaluator.score_function_names = {similarity: FUNCTIONS[similarity]}, [similarity]
    return evaluator


def test_documents_are_ranked_as_float64_orders_them(model):
    """Far from the origin float32 scores are all equal, and ranks would be those of the corpus."""
    query, documents = torch.full((1, 3), 4096.0), torch.full((6, 3), 4096.0)
    documents[:, 0] += torch.tensor([6.0, 5, 4, 3, 2, 1]) * 2**-11
    corpus = dict.fromkeys(range(6), "dog")
    evaluator = compat.InformationRetrievalEvaluator({"q": "cat"}, corpus, {"q": {5}}, mrr_at_k=[6])
    scores = with_rows(evaluator, query, "euclidean").compute_all_metrics(model, corpus_embeddings=documents)
    assert scores["euclidean"]["mrr@k"][6] == 1.0


def test_rows_that_are_not_finite_are_not_found(model):
    relevant = {"p": {"b"}, "q": {"a"}}
    evaluator = compat.InformationRetrievalEvaluator({"p": "cat", "q": "cat"}, {"a": "", "b": ""}, relevant)
    with_rows(evaluator, torch.ones(2, 3), "dot")
    documents = torch.tensor([[torch.nan] * 3, [1.0] * 3])  # "b" is at rank 1, and "a" at none
    scores = evaluator.compute_all_metrics(model, corpus_embeddings=documents)["dot"]
    assert scores["recall@k"][10] == scores["mrr@k"][10] == 0.5


@pytest.mark.parametrize(
    ("arguments", "told", "message"),
    [
        (({"q": "cat"}, {"d": "dog"}, {}), {}, "relevant_docs must have a document for at least one of the queries"),
        (({"q": "cat"}, {"d": "dog"}, {"q": set()}), {}, "relevant_docs must have a document"),
        (({"q": "cat"}, {}, {"q": {"d"}}), {}, "corpus must have at least one document"),
        (
            ({"q": "cat"}, {"d": "dog"}, {"q": {"d"}}),
            {"score_functions": {"manhattan": util.manhattan_sim}},
            r"score_functions\['manhattan'\] must be cos_sim, dot_score or euclidean_sim",
        ),
    ],
)
def test_what_is_refused(arguments, told, message):
    with pytest.raises(ValueError, match=message):
        compat.InformationRetrievalEvaluator(*arguments, **told)


def test_a_model_of_another_similarity_is_refused_by_name():
    other = word_model()
    other.similarity_fn_name = "manhattan"
    evaluator = compat.InformationRetrievalEvaluator(*task())
    with pytest.raises(ValueError, match=r"score_functions\['manhattan'\] must be cos_sim.*got .*manhattan"):
        evaluator(other)
    with pytest.raises(ValueError, match=r"the model's similarity must be .* got 'manhattan'"):
        compat.LabelRetrievalEvaluator(["cat", "dog"], [0, 0])(other)


def test_signature_is_the_originals():
    ours, theirs = (inspect.signature(each.InformationRetrievalEvaluator) for each in (compat, evaluation))
    assert list(ours.parameters) == list(theirs.parameters)
    assert issubclass(compat.InformationRetrievalEvaluator, evaluation.InformationRetrievalEvaluator)


# Labelled sentences


def sentences():
    questions, corpus, _ = task()
    texts = [*questions.values(), *corpus.values()]
    return texts, [f"class {place % 7}" for place in range(len(texts))]


@pytest.mark.parametrize("similarity", [None, "dot", "euclidean"])
def test_labels(model, similarity, tmp_path):
    texts, labels = sentences()
    evaluator = compat.LabelRetrievalEvaluator(texts, labels, name="dev", similarity_fn_name=similarity, at=(1, 4))
    found = [evaluator(model, str(tmp_path), epoch, step) for epoch, step in ((-1, -1), (2, 30))]
    distance = {None: "cosine", "dot": "inner_product", "euclidean": "euclidean"}[similarity]
    rows = model.encode(texts, convert_to_tensor=True)
    numbers = torch.arange(len(texts)) % 7
    expected = retrieval_metrics(rows, numbers, distance=distance, at=(1, 4)).as_dict()
    prefix = f"dev_{similarity or 'cosine'}_"
    assert found[0] == found[1]
    assert found[0] == {f"{prefix}{name}": value for name, value in expected.items() if not name.startswith("cmc@")}
    assert evaluator.primary_metric == f"{prefix}map_at_r" and 0 < found[0][evaluator.primary_metric] < 1
    with open(tmp_path / "Label-Retrieval_evaluation_dev_results.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0][:3] == ["epoch", "steps", "hit_rate@1"] and [row[:2] for row in table[1:]] == [
        ["-1", "-1"],
        ["2", "30"],
    ]
    assert [float(value) for value in table[2][2:]] == list(found[0].values())
    for same in (numbers, numbers.numpy(), numbers.tolist()):
        again = compat.LabelRetrievalEvaluator(
            texts, same, similarity_fn_name=similarity, metrics=("map",), main_metric="map"
        )
        assert again(model) == {f"{similarity or 'cosine'}_map": expected["map"]}


@pytest.mark.parametrize(
    ("arguments", "told", "message"),
    [
        ((["cat", "dog"], [0]), {}, "labels must be 2, one a sentence; got 1"),
        ((["cat", "dog"], [0, 1]), {}, "labels must have one that two sentences share"),
        ((["cat", "dog"], [0, 0]), {"metrics": ("map@3",)}, "metrics must be among .* got 'map@3'"),
        ((["cat", "dog"], [0, 0]), {"main_metric": "ndcg"}, "main_metric must be one of"),
        ((["cat", "dog"], [0, 0]), {"similarity_fn_name": "manhattan"}, "similarity_fn_name must be one of"),
    ],
)
def test_wrong_labels_and_options(arguments, told, message):
    with pytest.raises(ValueError, match=message):
        compat.LabelRetrievalEvaluator(*arguments, **told)


def test_trainer_takes_them(tmp_path):
    """Both are called after each epoch, and the best model is chosen by one of their metrics."""
    datasets = pytest.importorskip("datasets")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts, labels = sentences()
    numbers = [int(label[-1]) for label in labels]
    model = word_model()
    evaluators = [
        compat.LabelRetrievalEvaluator(texts, labels, name="labels"),
        compat.InformationRetrievalEvaluator(*task(), name="search"),
    ]
    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=32,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_labels_cosine_map_at_r",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"text": texts, "label": numbers}),
        loss=compat.BatchHardTripletLoss(model),
        evaluator=evaluators,
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_labels_cosine_map_at_r" in entry]
    assert len(logged) == 2 and all(0 <= entry["eval_search_cosine_ndcg@10"] <= 1 for entry in logged)
    assert trainer.state.best_metric == max(entry["eval_labels_cosine_map_at_r"] for entry in logged)
    assert len(list(tmp_path.rglob("Label-Retrieval_evaluation_labels_results.csv"))) == 1


def test_without_the_original_it_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers.util", None)
    module = importlib.import_module("fasttriplet.compat.sentence_transformers.retrieval")
    message = (
        r"InformationRetrievalEvaluator and LabelRetrievalEvaluator of .* need sentence-transformers .* \(pip install"
    )
    with pytest.raises(ImportError, match=message):
        runpy.run_path(module.__file__)
