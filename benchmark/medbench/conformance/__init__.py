"""The conformance kit: does a method, a task or a dataset keep what medbench promises of it?

    medbench plugins check NAME
    python -m pytest --pyargs medbench.conformance --method NAME

    kit.py               what is checked of which names, and the lines that say what was found
    check.py             what a check is, and what it can say
    method_checks.py     the checks of a method, one a function; likewise task_checks.py, dataset_checks.py
    method_subject.py    a method at recipe `micro` with the batches that the engine would give it; likewise the others
    device_moves.py      which tensors would stay behind on the CPU, found without a GPU
    two_processes.py     the loss of one batch in two processes
    pytest_options.py    --method, --task, --dataset for pytest; test_conformance.py is what it then collects

A check is run by nobody but the kit: a run of medbench does not ask for it.
"""
