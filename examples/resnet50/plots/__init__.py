"""The pictures of a run, one file each."""

from examples.resnet50.plots.distances import plot_distances
from examples.resnet50.plots.embeddings import plot_embeddings
from examples.resnet50.plots.loss import plot_loss
from examples.resnet50.plots.retrieval import plot_retrieval
from examples.resnet50.plots.worst_queries import plot_worst_queries

__all__ = ["plot_distances", "plot_embeddings", "plot_loss", "plot_retrieval", "plot_worst_queries"]
