"""ONNX: a model of plain modules as a file that onnxruntime runs, written only if it runs there with equal outputs."""
