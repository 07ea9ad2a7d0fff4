"""A regular package, which no distribution's ``tests`` later on the path can take the place of."""
