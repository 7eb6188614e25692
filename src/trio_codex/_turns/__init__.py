"""Turns and goals: their input, their events, their end, and what they cost."""
