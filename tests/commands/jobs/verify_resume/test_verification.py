from __future__ import annotations

from launcher.commands.jobs.verify_resume.verification import checkpoint_interval, draw_kill_steps
from launcher.recipe.plan import make_plan
from tests.data.made import recipe_of


def test_kills_come_after_the_first_checkpoint_and_before_the_last_step() -> None:
    for steps in (4, 5, 15, 100):
        recipe = recipe_of(train={"epochs": f"{steps}st", "global_batch": 8})
        plan = make_plan(recipe, 1, {"train": 64}, 3)
        for seed in range(100):
            kill_steps = draw_kill_steps(plan, seed)
            assert all(checkpoint_interval(steps) < step < steps for step in kill_steps)
            assert draw_kill_steps(plan, seed) == kill_steps
