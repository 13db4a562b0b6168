"""Statistics of comparison: is one method better than another, or is it the test set's noise?"""
