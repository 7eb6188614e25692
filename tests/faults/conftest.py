"""Counts the cells of the fault matrix that were tried, for a line at the end of the run."""


def pytest_terminal_summary(terminalreporter):
    tried, failed = [], 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(report.user_properties)
            if report.when == "call" and "fault" in properties:
                tried.append((properties["fault"], properties["phase"]))
                failed += outcome == "failed"
    if tried:
        faults, phases = ({*column} for column in zip(*tried, strict=True))
        terminalreporter.write_line(
            f"fault matrix: {len(tried)} cells tried, {len(faults)} faults in {len(phases)} phases, {failed} failed"
        )
