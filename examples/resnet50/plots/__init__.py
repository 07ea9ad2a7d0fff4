"""The pictures of a run, one file each."""

from examples.resnet50.plots.embeddings import plot_embeddings
from examples.resnet50.plots.loss import plot_loss
from examples.resnet50.plots.retrieval import plot_retrieval

__all__ = ["plot_embeddings", "plot_loss", "plot_retrieval"]
