"""Drop-in losses and miners for those who come from another library, on top of :mod:`fasttriplet.functional`; and
retrieval metrics, on top of :mod:`fasttriplet.retrieval`, for trainers of other libraries.

Each module has the names, the signatures and the numbers of its original; a docstring lists where it deviates. No
module but ``keras``, ``lightning``, ``torchmetrics`` and the evaluators of ``sentence_transformers`` imports its
original, and ``import fasttriplet`` imports none of them. Under any autocast losses are float32, from float32
distances; those of float64 rows are float64, and Keras' classes have their ``dtype``.

- :mod:`fasttriplet.compat.pml`: pytorch-metric-learning's ``BatchHardMiner``, ``TripletMarginMiner`` and
  ``TripletMarginLoss``.
- :mod:`fasttriplet.compat.sentence_transformers`: its four ``Batch*TripletLoss``, its ``TripletLoss`` of explicit
  triplets, its ``TripletEvaluator`` and its ``InformationRetrievalEvaluator``; and ``LabelRetrievalEvaluator``.
- :mod:`fasttriplet.compat.torchreid`: torchreid's ``TripletLoss``.
- :mod:`fasttriplet.compat.fastreid`: fast-reid's ``triplet_loss``.
- :mod:`fasttriplet.compat.tfa`: TensorFlow Addons' ``TripletHardLoss`` and ``TripletSemiHardLoss``, under PyTorch.
- :mod:`fasttriplet.compat.keras`: the same two as losses of Keras 3 on its PyTorch backend.
- :mod:`fasttriplet.compat.torchmetrics`: ``EmbeddingRetrieval``, retrieval metrics as a ``Metric``.
- :mod:`fasttriplet.compat.lightning`: ``RetrievalCallback``, which evaluates and logs them at the end of an epoch.

What they share: ``_labels`` makes integers of any labels and ``_margin`` numbers of margins, ``_pairs`` normalises
rows, differentiates distances of given pairs and keeps autocast out, ``_whole_batch`` has the rules of
sentence-transformers and TensorFlow Addons for missing partners, ``_soft_mining`` fast-reid's weighted means. Behind
``pml``: ``_pml_objects`` tells its distances and reducers, ``_pml_pairing`` lists its triplets, ``_pml_bases`` puts the
library's own classes below where they are in use.
"""
