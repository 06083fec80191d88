"""The target `trt`: an engine of TensorRT, built ahead of time."""
