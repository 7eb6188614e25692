"""What the faces for callers without Trio share: a thread that runs Trio, and proxies for the objects that live there."""
