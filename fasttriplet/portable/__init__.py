"""The portable engine: every operator in plain PyTorch, for devices and calls that no kernel serves.

Chunks of anchors against all candidates, in memory O(N * D) and that of one chunk. Pairs are those of the kernels, by
the same idea: a screen proves which few may be the answer, and those are scored exactly.

- :mod:`~fasttriplet.portable.exact`: scores, bit for bit the kernels'.
- :mod:`~fasttriplet.portable.rows`, :mod:`~fasttriplet.portable.pairs`: rows prepared, and who pairs with whom.
- :mod:`~fasttriplet.portable.screen`: keys and their bounds.
- :mod:`~fasttriplet.portable.picks`, :mod:`~fasttriplet.portable.windows`: what is picked of a row of keys.
- :mod:`~fasttriplet.portable.miners`, :mod:`~fasttriplet.portable.hard`, :mod:`~fasttriplet.portable.batch_all`,
  :mod:`~fasttriplet.portable.weighted`, :mod:`~fasttriplet.portable.losses`, :mod:`~fasttriplet.portable.edges`: the
  operators; :mod:`~fasttriplet.portable.walk`: over all pairs, for sums of them.
- :mod:`~fasttriplet.portable.neighbours`, :mod:`~fasttriplet.portable.ranks`: those of retrieval;
  :mod:`~fasttriplet.portable.order`: the order of scored candidates.
- :mod:`~fasttriplet.portable.checks`: what they check; :mod:`~fasttriplet.portable.operators` has them by name.
"""
