"""Faces in pictures, folders, videos and a camera, and what a net says of each: python -m finetune.predict MODEL_OR_RUN PATH...

sources    what there is to look at, one picture or frame after the other
detect     where the faces are
crops      what the net sees of a face
model      what it says: probabilities of its labels
tracks     which faces of a video are one person's
pipeline   all of that over everything, in constant memory
rows       a row a face: csv, JSON, the table
draw, timeline, movie    pictures and videos with the answers in them
"""
