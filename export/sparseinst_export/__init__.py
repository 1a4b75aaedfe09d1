"""From trained weights to what a server runs: the ONNX graph with its contract, and a filled Triton model repository.

Nothing heavy is imported here: filling a repository needs neither torch nor onnx.
"""
