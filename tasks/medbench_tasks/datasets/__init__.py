"""One real folder layout a file."""
