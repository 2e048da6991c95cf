"""Very many samples: shards of a folder, drawn by one process or by the workers of a Ray cluster.

    run      what is drawn, and one shard of it
    folder   the record of a run, and which of its shards are there
    workers  who draws the others

A shard is the samples of a range of seeds, drawn by calls that depend on nothing else, so that it does not matter who
draws it, when, or after how many attempts.
"""
