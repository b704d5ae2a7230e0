"""A converted net becomes a file: safetensors, .pth, Python source, caffemodel."""
