"""``trio-codex doctor --schema``: differences between the built-in protocol and that of another binary."""

import gzip
import json

import pytest
from cli_driver import run_cli, script

import wiregen.schema
from trio_codex import wire
from trio_codex.binary import TESTED, check_version, find_binary
from trio_codex.cli import _drift
from trio_codex.cli._drift import Difference, NotASchema, compare
from trio_codex.wire._registry import OLDER_ONLY
from trio_codex.wire._schema.built_in import BuiltIn

real = pytest.mark.real

VENDORED = wiregen.schema.SCHEMA / wiregen.schema.FILES["experimental"]
TEXT = gzip.decompress(VENDORED.read_bytes())
PINNED = json.loads(TEXT)
BUILT_IN = BuiltIn()


@pytest.fixture(autouse=True)
def built_in_read_once(monkeypatch):
    monkeypatch.setattr(_drift, "BuiltIn", lambda: BUILT_IN)


class Doctored:
    """A schema to modify, with both levels of definitions and shortcuts to the parts that tests change most."""

    def __init__(self):
        self.bundle = json.loads(TEXT)  # three times as fast as a deep copy
        self.outer = self.bundle["definitions"]
        self.inner = self.outer["v2"]

    def rows(self, envelope):
        return self.outer[envelope]["oneOf"]

    def row(self, envelope, method):
        return next(row for row in self.rows(envelope) if row["properties"]["method"]["enum"] == [method])

    def add_method(self, envelope, method):
        properties = {"method": {"enum": [method]}, "params": {"type": "null"}}
        self.rows(envelope).append({"type": "object", "properties": properties})

    def remove_method(self, envelope, method):
        self.rows(envelope).remove(self.row(envelope, method))

    def fields(self, name):
        return self.definition(name)["properties"]

    def definition(self, name):
        return self.inner.get(name) or self.outer[name]

    def member(self, union, tag):
        return next(
            one for one in self.definition(union)["oneOf"] if one["properties"]["type"]["enum"] == [tag]
        )


def doctored(change):
    schema = Doctored()
    change(schema)
    return compare(schema.bundle)


def test_the_pinned_schema_has_no_differences():
    assert compare(PINNED) == []


def test_parts_known_to_be_removed_may_be_absent_or_present():
    assert "currentTime/read" in OLDER_ONLY
    older = {"definitions": {**wiregen.schema.load().definitions.raw}}
    assert compare(older) == []


# -- methods -------------------------------------------------------------------------------------------------------

TABLES = [
    ("ClientRequest", "request", "turn/start"),
    ("ServerRequest", "server request", "item/fileChange/requestApproval"),
    ("ServerNotification", "notification", "turn/completed"),
    ("ClientNotification", "client notification", "initialized"),
]
every_table = pytest.mark.parametrize(("envelope", "kind", "method"), TABLES, ids=[row[1] for row in TABLES])


@every_table
def test_a_new_method_is_listed_and_does_not_matter(envelope, kind, method):
    assert doctored(lambda schema: schema.add_method(envelope, "turn/dance")) == [
        Difference(kind, "added", "turn/dance")
    ]


@every_table
def test_a_removed_method_matters(envelope, kind, method):
    assert doctored(lambda schema: schema.remove_method(envelope, method)) == [
        Difference(kind, "gone", method, matters=True)
    ]


def test_adding_or_removing_the_params_of_a_method_matters():
    def change(schema):
        schema.row("ClientRequest", "thread/archive")["properties"]["params"] = {"type": "null"}
        params = {"$ref": "#/definitions/v2/ThreadArchiveParams"}
        schema.row("ClientRequest", "memory/reset")["properties"]["params"] = params

    assert doctored(change) == [
        Difference("request", "changed", "memory/reset", "with params", matters=True),
        Difference("request", "changed", "thread/archive", "without params", matters=True),
    ]


def test_a_missing_response_type_matters():
    assert doctored(lambda schema: schema.inner.pop("ThreadArchiveResponse")) == [
        Difference("type", "gone", "ThreadArchiveResponse", "the answer to thread/archive", matters=True)
    ]


# -- fields --------------------------------------------------------------------------------------------------------


def require(schema, name, field):
    schema.definition(name).setdefault("required", []).append(field)


def relax(schema, name, field):
    schema.definition(name)["required"].remove(field)


def new_field(schema, name):
    schema.fields(name)["mood"] = {"type": "string"}


def set_field(schema, name, field, value):
    schema.fields(name)[field] = value


SENT, READ = "ThreadArchiveParams", "TurnSteerResponse"
FIELDS = {
    "new where we read": (
        lambda schema: new_field(schema, READ),
        Difference("field", "added", f"{READ}.mood"),
    ),
    "new where we send": (
        lambda schema: new_field(schema, SENT),
        Difference("field", "added", f"{SENT}.mood"),
    ),
    "new and required where we read": (
        lambda schema: (new_field(schema, READ), require(schema, READ, "mood")),
        Difference("field", "added", f"{READ}.mood"),
    ),
    "new and required where we send": (
        lambda schema: (new_field(schema, SENT), require(schema, SENT, "mood")),
        Difference("field", "added", f"{SENT}.mood", "required", matters=True),
    ),
    "gone where we read": (
        lambda schema: schema.fields(READ).pop("turnId"),
        Difference("field", "gone", f"{READ}.turnId", matters=True),
    ),
    "gone where we send": (
        lambda schema: schema.fields(SENT).pop("threadId"),
        Difference("field", "gone", f"{SENT}.threadId", matters=True),
    ),
    "no longer required where we read": (
        lambda schema: relax(schema, READ, "turnId"),
        Difference("field", "changed", f"{READ}.turnId", "no longer required", matters=True),
    ),
    "no longer required where we send": (
        lambda schema: relax(schema, SENT, "threadId"),
        Difference("field", "changed", f"{SENT}.threadId", "no longer required"),
    ),
    "now required where we send": (
        lambda schema: require(schema, "TurnSteerParams", "clientUserMessageId"),
        Difference("field", "changed", "TurnSteerParams.clientUserMessageId", "required", matters=True),
    ),
    "no longer required where we read, but may be null": (
        lambda schema: relax(schema, "ThreadProjectUpdatedNotification", "projectId"),
        Difference("field", "changed", "ThreadProjectUpdatedNotification.projectId", "no longer required"),
    ),
    "of another kind": (
        lambda schema: set_field(schema, READ, "turnId", {"type": "integer"}),
        Difference("field", "changed", f"{READ}.turnId", "string → integer", matters=True),
    ),
    "of more kinds where we read": (
        lambda schema: set_field(schema, READ, "turnId", {"type": ["string", "null"]}),
        Difference("field", "changed", f"{READ}.turnId", "string → string or null", matters=True),
    ),
    "of more kinds where we send": (
        lambda schema: set_field(schema, SENT, "threadId", {"type": ["string", "integer"]}),
        Difference("field", "changed", f"{SENT}.threadId", "string → integer or string"),
    ),
    "of anything where we read": (
        lambda schema: set_field(schema, READ, "turnId", True),
        Difference("field", "changed", f"{READ}.turnId", "string → anything", matters=True),
    ),
    "a number where an integer was read": (
        lambda schema: set_field(schema, "TokenUsageBreakdown", "totalTokens", {"type": "number"}),
        Difference("field", "changed", "TokenUsageBreakdown.totalTokens", "integer → number", matters=True),
    ),
    "of other items": (
        lambda schema: set_field(
            schema, "CommandExecParams", "command", {"type": "array", "items": {"type": "integer"}}
        ),
        Difference("field", "changed", "CommandExecParams.command[]", "string → integer", matters=True),
    ),
    "no longer to be cleared by null": (
        lambda schema: set_field(schema, "ThreadGoalSetParams", "tokenBudget", {"type": "integer"}),
        Difference(
            "field", "changed", "ThreadGoalSetParams.tokenBudget", "integer or null → integer", matters=True
        ),
    ),
}


@pytest.mark.parametrize(("change", "difference"), FIELDS.values(), ids=FIELDS)
def test_a_change_of_a_field_matters_depending_on_whether_it_is_read_or_sent(change, difference):
    assert doctored(change) == [difference]


def test_an_optional_field_that_may_no_longer_be_null_does_not_matter():
    # The client omits such a field and never sends null.
    assert not doctored(
        lambda schema: set_field(schema, "TurnSteerParams", "clientUserMessageId", {"type": "string"})
    )


# -- values and members --------------------------------------------------------------------------------------------


def test_a_removed_enum_value_matters_and_a_new_one_does_not():
    def change(schema):
        values = schema.definition("TurnStatus")["enum"]
        values.remove("interrupted")
        values.append("paused")

    assert doctored(change) == [
        Difference("enum value", "added", "TurnStatus: paused"),
        Difference("enum value", "gone", "TurnStatus: interrupted", matters=True),
    ]


def test_a_new_value_matters_if_the_enum_is_closed():
    assert doctored(lambda schema: schema.definition("McpElicitationStringType")["enum"].append("text")) == [
        Difference("enum value", "added", "McpElicitationStringType: text", matters=True)
    ]


def test_replacing_an_enum_by_any_string_matters_if_the_enum_is_closed():
    def change(schema):
        del schema.definition("TurnStatus")["enum"]
        del schema.definition("McpElicitationStringType")["enum"]

    assert doctored(change) == [
        Difference("type", "changed", "McpElicitationStringType", "enum → any string", matters=True),
        Difference("type", "changed", "TurnStatus", "enum → any string"),
    ]


@pytest.mark.parametrize(("name", "field", "matters"), [(READ, "turnId", False), (SENT, "threadId", True)])
def test_replacing_any_string_by_an_enum_matters_where_it_is_sent(name, field, matters):
    assert doctored(lambda schema: set_field(schema, name, field, {"type": "string", "enum": ["a"]})) == [
        Difference("type", "changed", f"{name}.{field}", "any string → enum", matters=matters)
    ]


def test_a_removed_union_member_matters_and_a_new_one_does_not():
    def change(schema):
        schema.member("UserInput", "text")["properties"]["type"]["enum"] = ["prose"]

    assert doctored(change) == [
        Difference("member", "added", "UserInput: prose"),
        Difference("member", "gone", "UserInput: text", matters=True),
    ]


def test_an_untagged_union_member_is_identified_by_its_fields():
    def change(schema):
        text, _ = schema.definition("ResourceContent")["anyOf"]
        schema.definition("ResourceContent")["anyOf"] = [text]

    assert doctored(change) == [
        Difference("member", "gone", "ResourceContent: BlobResourceContent", matters=True)
    ]


def test_a_field_of_a_union_member_is_reported_with_its_class():
    def change(schema):
        del schema.member("UserInput", "text")["properties"]["text_elements"]

    assert doctored(change) == [Difference("field", "gone", "TextUserInput.text_elements", matters=True)]


def test_renaming_a_definition_is_not_a_difference():
    renamed = json.dumps(PINNED).replace("TurnStatus", "Stage")
    assert compare(json.loads(renamed)) == []


@pytest.mark.parametrize(
    "schema",
    [{}, [], {"definitions": {}}, {"definitions": {**PINNED["definitions"], "ClientRequest": 1}}],
    ids=["empty", "an array", "no definitions", "no table"],
)
def test_an_invalid_schema_is_an_error(schema):
    with pytest.raises(NotASchema):
        compare(schema)


# -- the command ---------------------------------------------------------------------------------------------------


@real
async def test_the_installed_binary_speaks_the_built_in_protocol_or_an_older_one(home):
    ended = await run_cli("doctor", "--schema", home=home)
    if find_binary().version == TESTED[1]:
        assert (ended.status, ended.err) == (0, "")
        assert "✓ the protocol is the same" in ended.out
    else:
        assert ended.status == 1
        lacking = [
            method for method, spec in wire.CLIENT_REQUESTS.items() if f"request {method}\n" in ended.out
        ]
        since = {wire.CLIENT_REQUESTS[method].since for method in lacking} - {None}
        assert all(check_version(find_binary().version, (first, first)) == "older" for first in since)
        assert f"{len(lacking)} requests gone" in ended.out


def binary_with(tmp_path, bundle):
    """Return a program that prints this schema."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(bundle))
    return script(
        tmp_path / "codex",
        'test "$1" = --version && { echo codex-cli 0.170.0; exit; }\n'
        'test "$*" = "app-server generate-json-schema --experimental --out $5" || exit 9\n'
        f'mkdir -p "$5" && cp {schema} "$5/codex_app_server_protocol.schemas.json"',
    )


async def test_differences_are_counted_and_listed_and_only_important_ones_set_the_exit_status(tmp_path):
    schema = Doctored()
    schema.remove_method("ClientRequest", "turn/start")
    schema.add_method("ClientRequest", "turn/dance")
    ended = await run_cli("doctor", "--schema", "--codex-bin", str(binary_with(tmp_path, schema.bundle)))
    assert ended.status == 1
    assert "0.170.0" in ended.out
    assert "✗ 1 matters: 1 request gone\n    - request turn/start\n" in ended.out
    assert "· 1 does not matter: 1 request added\n    + request turn/dance\n" in ended.out
    assert "1 difference matters" in ended.complaint


async def test_differences_can_be_printed_as_json_and_additions_exit_with_0(tmp_path):
    schema = Doctored()
    schema.add_method("ServerNotification", "turn/danced")
    binary = binary_with(tmp_path, schema.bundle)
    ended = await run_cli("doctor", "--schema", "--json", "--codex-bin", str(binary))
    assert (ended.status, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert report["ok"]
    assert (report["binary"], report["version"]) == (str(binary), "0.170.0")
    assert report["differences"] == [
        {"kind": "notification", "change": "added", "name": "turn/danced", "detail": "", "matters": False}
    ]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("echo no such command >&2; exit 2", "no such command"),
        ("exit 0", "it wrote none"),
        (
            'mkdir -p "$5"; echo "{" > "$5/codex_app_server_protocol.schemas.json"',
            "does not print its schema",
        ),
        (
            'mkdir -p "$5"; echo "{}" > "$5/codex_app_server_protocol.schemas.json"',
            "its output is not a readable schema",
        ),
        ("exec sleep 1000", "it did not end within 0.5 s"),
    ],
    ids=["refuses", "writes nothing", "writes no JSON", "writes another thing", "hangs"],
)
async def test_a_binary_without_a_schema_is_reported_on_one_line(tmp_path, program, told):
    binary = script(tmp_path / "codex", f'test "$1" = --version || {{ {program}; }}')
    ended = await run_cli("doctor", "--schema", "--codex-bin", str(binary), "--start-timeout", "0.5")
    assert (ended.status, ended.out) == (1, "")
    assert told in ended.complaint
