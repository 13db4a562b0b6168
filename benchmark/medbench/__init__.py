"""medbench: a benchmark of medical vision-language pretraining on chest radiographs."""

__version__ = "0.1.0"
