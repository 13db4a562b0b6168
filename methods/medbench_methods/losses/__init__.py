"""One loss a file: the formula, the shapes, the source. All compute in float32, even under autocast."""
