"""Turns and goals: input, events, outcome and cost."""
