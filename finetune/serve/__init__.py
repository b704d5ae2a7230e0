"""A local web page that shows what a net reads in faces: python -m finetune.serve MODEL_OR_RUN

reader    a picture -> its faces and what the net says of each
html      the answer and the model's card, as HTML
keep      where an upload lies until it is read, and that it goes away
guard     what the server answers at all: which addresses, from whom, how many bytes
app       the page itself, by gradio
"""
