"""What walstream costs, against what else one could take: ``python -m benchmarks``.

Every contender is a process of its own, against the same broker and the same topic, in turns. What it wrote is read
back, counted and compared. The servers are started for the run and end with it.

`cluster`, `load`, `processes` and `drain` are the harness; `figures` has a module per figure, `contenders` the programs
that are measured beside walstream's own, and `results` and `plot` keep what came out.
"""
