"""What runs on the device: needs numpy, onnxruntime and tokenizers, nothing of ddlm."""
