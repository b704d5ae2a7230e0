"""Files of Caffe, of any age: prototxt and caffemodel become messages, layer specifications and blobs."""
