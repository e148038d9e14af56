"""Numbers to text: a `Results` record goes in, one format comes out, nothing is judged here.

`content` says in words and figures what a record holds; `terminal`, `markdown` and `html` only lay
that out. So the three always carry the same content, and a number is formatted in one place
(`figures`).
"""
