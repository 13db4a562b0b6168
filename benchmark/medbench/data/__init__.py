"""What all datasets share: index, image reading, prepared cache, splits, label fractions, report text."""
