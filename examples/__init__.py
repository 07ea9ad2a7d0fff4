"""Worked examples; they are run from the repository and are not part of the installed package."""
