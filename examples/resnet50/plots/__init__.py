"""The pictures of a run."""

from examples.resnet50.plots.loss import plot_loss
from examples.resnet50.plots.neighbours import plot_retrieval, plot_worst_queries
from examples.resnet50.plots.space import plot_distances, plot_embeddings

__all__ = ["plot_distances", "plot_embeddings", "plot_loss", "plot_retrieval", "plot_worst_queries"]
