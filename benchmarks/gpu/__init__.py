"""The check on a GPU, a module a step: ``benchmarks/gpu.sh`` runs them, each in a process of its own.

``gate`` loads the libraries; ``answers`` compares one kind of products with the CPU; ``kernels`` tells where a step's
time goes; ``timings`` compares with others; ``small_run`` is for the sanitizers, ``one_size`` for the profiler;
``tiers`` compares two instruction sets of the host's processor. What they share: ``device``, ``products``, ``aims``,
``beside``, ``apart``.
"""

#: Exit status of a step for which something is missing here, said in its last line: neither passed nor failed.
LEFT_OUT = 77
