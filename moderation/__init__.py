"""The domain: what is allowed, and proof of what was decided.

`media`, `frames`, `scores` and `taxonomy` name things; `policy.decide` is the one function that decides;
`screening.Screener` keeps the order of steps; `audit` turns a decision into bytes anyone can check;
`ports` is all it needs of the world, and `adapters` is where the world is touched.
"""
