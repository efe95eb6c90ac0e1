"""Training the small matched models from scratch: objectives, the optimiser's loop, checkpoints that go on exactly.

What is trained is the networks that the other modules of this room decode with, through the same `trunk`. Nothing here
knows where the tokens come from: data is an object whose `batches(step)` gives ids [B, S].

    recipe      what a training does: steps, batch, learning rate, seed       shapes     the networks, all of one size
    objectives  the four losses, one row's nats each                          masking    which positions are hidden
    data        batches from a source of texts                                corpus     batches from a user's file
    loop        one step of the optimiser                                     heldout    the loss on texts never seen
    state       what a training needs to go on exactly, in one file           export     the finished checkpoint
"""
