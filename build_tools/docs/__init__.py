"""What builds the documentation beside its pages in ``docs/``: MkDocs' hooks and the table that a run renders."""
