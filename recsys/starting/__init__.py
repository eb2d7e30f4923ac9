"""A first experiment for a log that nobody has described: look at it, guess what its columns are, write it down.

`sources` says which reader knows the log, `sample` reads a bounded part of it, `label`, `user` and `times` choose roles,
`uses` says what each column becomes, `guess` is all of these, and `draft` writes the experiment and a rival of it. Nothing
here imports torch.
"""
