"""The cost of instruments per event of a turn whose ``params`` are not read."""

from benchmarks import events

TITLE = "Instruments"
ROUNDS = 5

prepare = events.prepare


def with_instruments(make):
    def run(setting):
        return events.trio_codex(setting, read=False, instruments=make(setting))

    return run


def nothing(setting):
    return []


def one_that_does_nothing(setting):
    from trio_codex.instruments import Instrument

    class Idle(Instrument):
        def event_received(self, connection, event):
            pass

    return [Idle()]


def stats(setting):
    from trio_codex.instruments import StatsInstrument

    return [StatsInstrument()]


def log(setting):
    from trio_codex.instruments import LogInstrument

    return [LogInstrument()]


def open_telemetry(setting):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    from trio_codex.instruments import OpenTelemetryInstrument

    return [OpenTelemetryInstrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider())]


def recorder(setting):
    from trio_codex.recording import Recorder

    return [Recorder(f"{setting.directory}/recording.jsonl", overwrite=True)]


CASES = {
    "none": with_instruments(nothing),
    "event_received that does nothing": with_instruments(one_that_does_nothing),
    "StatsInstrument": with_instruments(stats),
    "LogInstrument": with_instruments(log),
    "OpenTelemetryInstrument": with_instruments(open_telemetry),
    "Recorder": with_instruments(recorder),
}
