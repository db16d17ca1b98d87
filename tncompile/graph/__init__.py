"""What a file means: the intermediate representation, its builders and analyses.

`ir` is the representation on one page. `build` makes it from syntax trees with the help of
`scope` and `names` (names and values), `targets` and `target_calls`, `modes`, `activations` (with
`rational`), `rows` and `stages` (topologies), `legs`, `drawing`, `wiring` and `tensors` (drawn
networks), and `initial` (the policy for initial values). What activations compute is in
`formulas`, written as `expressions`. `verify` holds its rules; `network` is the networkx view with
the analyses that run on it.
"""
