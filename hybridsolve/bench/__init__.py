"""What this machine does with the solver, beside its own ceilings and beside other programs: `hybridsolve bench`.

`cases` has the shapes and their inputs, `implementations`, `peers` and `rivers` who computes them, `gate` what each
must pass before it is timed, `worker` the process that one implementation of one case has for itself, `measure` the
rounds in which they take turns, `floors` what no program goes below on this machine, `compare` two runs or two commits,
and `report` tables and figures. Modules that a worker imports find one another as `.name` and the solver as
`hybridsolve`, so that they measure another checkout's solver too.
"""
