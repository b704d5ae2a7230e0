"""Weights in other frameworks' files, converted by others from the authors' Caffe nets: the links die, the copies live on.

forms      how each calls and lays out its layers, with who says so
torch_file, keras_file    reading them, as files that anybody may have made
adding     zoo.add: from such a file to a copy in the cache, checked name by name and shape by shape
"""
