"""Offline: files of events, dataset, training, evaluation and ONNX export of what the jobs serve."""
