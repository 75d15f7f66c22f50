"""See why a model called a whole slide: see README.md."""
