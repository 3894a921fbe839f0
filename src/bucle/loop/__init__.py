"""The only room that sees every stage: the plan, the run, the reasons."""
