"""One training, in the order in which it runs.

1. `main`: everything below, one call a step
2. `prepare` (`complete`), `job`, `inputs`: the recipe completed and planned, what never changes, the feeds of samples
3. `stage` (`choose_inputs`, `frozen`): what is frozen, what trains, and on which inputs
4. `loop`: `step` (`nonfinite`), `step_log` (`timing`, `data_wait`), `evaluate`, saves
5. beside it: `first_batch`, `input_report` (`bottleneck`), `out_of_memory`
6. `finish` (`summary`): the best weights evaluated, everything written down
"""
