"""The first minute, python -m finetune.demo: a Caffe net is converted, held against another implementation, and reads a face.

astronaut.jpg            Eileen Collins, by NASA (Great Images in NASA, public domain): the 512×512 pixels that scikit-image ships as
                         skimage.data.astronaut, saved as JPEG of quality 90
fer_mini_outputs.json    what OpenCV's Caffe importer computes from zoo/embedded/fer_mini, written by benchmarks/demo_outputs.py
"""
