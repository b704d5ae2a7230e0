"""The way back: any PyTorch module whose operations Caffe has, as a prototxt and a caffemodel.

torch.export gives the operations, a function each writes them as Caffe's layers, and what was written is converted back and
compared before any file appears.
"""
