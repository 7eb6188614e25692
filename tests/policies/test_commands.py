"""Patterns for command arguments, and shell scripts that may be more than one simple command."""

import os
import shlex
import shutil
import subprocess
from functools import partial

import asked
import pytest
import trio
from hypothesis import assume, example, given
from hypothesis import strategies as st

from trio_codex import policies, wire
from trio_codex.policies import Abstain, Accept
from trio_codex.policies._shell import command_of, simple_command

allow_commands = partial(policies.allow_commands, trust_repositories=True)
"""These tests treat git like any other program."""

PATTERNS = ("git status", "git show *", "ls ...", "grep -e '*' * ...", ["echo", "*", ...])


async def decide(policy, line, **more):
    with trio.fail_after(5):
        return await policy.command(asked.command(line, **more))


def accepts(policy, line, **more):
    """Return whether a policy, which must not block, accepts a command."""
    decision = trio.run(lambda: decide(policy, line, **more))
    assert isinstance(decision, Accept | Abstain)
    return isinstance(decision, Accept)


def in_shell(line, shell="/bin/bash", option="-lc"):
    return shlex.join([shell, option, line])


async def test_a_pattern_for_git_accepts_nothing_and_warns_unless_repositories_are_trusted():
    for pattern in ("git status", ["/usr/bin/git", "log", ...]):
        with pytest.warns(UserWarning, match=r"allow_git\(\)") as warned:
            policy = policies.allow_commands(pattern, "ls ...")
        assert warned[0].filename == __file__
        line = pattern if isinstance(pattern, str) else "/usr/bin/git log"
        assert await decide(policy, line) == Abstain()
        assert await decide(policy, "ls -a") == Accept(rule="allow_commands: ls ...")
        trusting = policies.allow_commands(pattern, trust_repositories=True)
        assert isinstance(await decide(trusting, line), Accept)


# -- patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("git status", True),
        ("git  status ", True),
        ("git 'status'", True),
        ("git status -s", False),
        ("git", False),
        ("/usr/bin/git status", False),
        ("/tmp/git status", False),
        ("./git status", False),
        ("GIT status", False),
        ("git show HEAD", True),
        ("git show 'a b'", True),
        ("git show --output=x", False),
        ("git show -", False),
        ("git show", False),
        ("git show HEAD HEAD", False),
        ("git show ''", True),
        ("ls", True),
        ("ls -la --color x", True),
        ("lsof", False),
        ("grep -e '*' x", True),
        ("grep -e '*' x -r y", True),
        ("grep -e y x", False),
        ("echo '*' more -x", True),
        ("echo y", False),
        ("", False),
        ("   ", False),
    ],
)
async def test_a_pattern_matches_arguments(line, expected):
    policy = allow_commands(*PATTERNS)
    for shown in (line, in_shell(line), in_shell(line, "/usr/bin/zsh", "-c")):
        assert isinstance(await decide(policy, shown), Accept if expected else Abstain), shown


async def test_the_decision_covers_one_request_and_names_its_pattern():
    decision = await decide(allow_commands("git diff", ["git", "show", "a b", ...]), "git show 'a b' c")
    assert decision == policies.accept()
    assert decision.rule == "allow_commands: git show 'a b' ..."
    assert (await decide(allow_commands("ls *", name="look"), "ls x")).rule == "look: ls *"


async def test_allow_commands_decides_only_on_commands():
    policy = allow_commands("ls")
    assert policy.name == "allow_commands"
    assert [kind for kind in policies._policy.KINDS if getattr(policy, kind)] == ["command"]


@pytest.mark.parametrize(
    "pattern",
    ["", " ", "*", "* x", "...", "... x", "git ... x", "git sta*", "git '*'*", "git status; ls", "git | x",
     "git $x", "a 'b", "ls ~", "x\0y z", [], [...], ["git", ..., "x"], [""], ["git", "\0"], "git\nstatus"],
)  # fmt: skip
def test_a_pattern_that_is_not_a_simple_command_is_rejected(pattern):
    with pytest.raises(ValueError, match=r"pattern|NUL"):
        allow_commands(pattern)


async def test_without_patterns_nothing_is_accepted():
    assert await decide(allow_commands(), "ls") == Abstain()


async def test_a_request_for_more_than_a_command_is_not_decided():
    policy = allow_commands("ls")
    network = wire.NetworkApprovalContext(host="example.org", protocol="https")
    more = wire.AdditionalPermissionProfile(file_system=asked.files(asked.entry("write", "/etc")))
    rule = wire.NetworkPolicyAmendment(action="allow", host="example.org")
    assert isinstance(await decide(policy, "ls"), Accept)
    assert await decide(policy, "ls", network=network) == Abstain()
    assert await decide(policy, "ls", input_to_terminal=True) == Abstain()
    assert await decide(policy, "ls", additional_permissions=more) == Abstain()
    assert await decide(policy, "ls", proposed_network_rules=(rule,)) == Abstain()
    assert await decide(policy, None) == Abstain()


async def test_cwd_below_resolves_links_in_the_working_directory(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (inside / "out").symlink_to(outside)
    (tmp_path / "link").symlink_to(inside)
    for root in (inside, tmp_path / "link"):
        policy = allow_commands("ls", cwd_below=root)
        for cwd, expected in {
            inside: Accept, inside / "sub": Accept, tmp_path / "link" / "sub": Accept, tmp_path: Abstain,
            inside / "out": Abstain, f"{inside}/sub/../..": Abstain, f"{inside}-not": Abstain, "sub": Abstain,
            "": Abstain,
        }.items():  # fmt: skip
            assert isinstance(await decide(policy, "ls", cwd=str(cwd)), expected), (root, cwd)
        assert await decide(policy, "ls", cwd=None) == Abstain()


# -- what a shell may hide -----------------------------------------------------------------------------------------

NOT_SIMPLE = [
    "git status; rm x", "git status && rm x", "git status & rm x", "git status | sh", "git status\nrm x",
    "git status || rm x", "git status > x", "git status 2>x", "git status < x", "git status <<EOF\nEOF",
    "git $(rm x)", "git `rm x`", 'git "$(rm x)"', 'git "`rm x`"', "git $'status'", 'git $"status"', "git ${x}",
    'git "$x"', "git sta*", "git sta?us", "git [s]tatus", "git {status,x}", "git ~", "git ~/x", "PATH=/tmp git status",
    "PATH='/tmp' git status", "git status # x", "# git status", "! git status", "git() { rm x; }; git status",
    "(git status)", "{ git status; }", "time git status", "if git status", "git status \\\n", "git sta\\\ntus",
    'git "sta\\\ntus"', "git 'status", 'git "status', "git status\\", "git status !!", 'git "!!"', "git <(rm x)",
    "=git status", "git =status", "%1", "%'1'", "git status\r", "git\xa0status", "git\u2003status", "git status ^x", "coproc git status",
    "-a",
    "+x git",
    " -a",
    "[[ git ]]", "[ git ]", "- git status", "noglob git status", "git 'sta''tus'", "''", "case git", "git\vstatus",
    'git \\"$x', 'git "\\\\$x"', "git status\0", 'git "\\\n"',
]  # fmt: skip


@pytest.mark.parametrize("script", NOT_SIMPLE)
async def test_a_script_that_might_not_be_a_simple_command_matches_nothing(script):
    assert simple_command(script) is None
    anything = allow_commands("git ...", "rm ...", ["[", ...], ["%1", ...], ["-", ...], ["PATH=/tmp", ...])
    for line in (script, in_shell(script), in_shell(script, "/bin/sh", "-c")):
        assert await decide(anything, line) == Abstain()


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/bash", "-lc", "git status", "x"], ["/bin/bash", "-x", "-c", "git status"], ["/bin/bash", "-lc"],
        ["/tmp/bash", "-lc", "git status"], ["bash", "-lc", "git status"], ["/bin/bash", "-ic", "git status"],
        ["/bin/bash", "-lc", "/bin/bash -lc 'git status'"], ["/usr/bin/env", "git", "status"], ["/bin/bash", "git", "status"],
        ["sudo", "git", "status"],
    ],
)  # fmt: skip
async def test_only_a_single_known_shell_is_unwrapped(argv):
    assert await decide(allow_commands("git ..."), shlex.join(argv)) == Abstain()


ARGV = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(["git", "status", "-x", "*", "..."]),
    min_size=1,
    max_size=4,
)  # fmt: skip


@given(ARGV)
@example(["a=b", "c"])
@example(["if", "x"])
@example(["=x"])
@example(["''", "'"])
def test_a_command_matches_the_same_patterns_with_and_without_a_shell(argv):
    assume(argv[0] not in ("/bin/bash", "/bin/sh"))
    line = shlex.join(argv)
    plain = command_of(line)
    assert command_of(in_shell(line)) == plain
    assert plain in (None, tuple(argv))
    policy = allow_commands("git status", "git * ...", ["a", "*"])
    assert accepts(policy, in_shell(line)) == accepts(policy, line)


@given(
    st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True) | st.text("ab '\"$;*\n"), min_size=1, max_size=4)
)
def test_quoted_arguments_are_parsed_unless_the_first_is_a_reserved_word(argv):
    assume(argv[0] and "=" not in argv[0])
    assert simple_command(shlex.join(argv)) == (None if argv[0] in RESERVED else tuple(argv))


RESERVED = frozenset(["case", "coproc", "declare", "do", "done", "elif", "else", "end", "esac", "export", "fi", "float", "for", "foreach", "function", "if", "in", "integer", "local", "nocorrect", "noglob", "readonly", "repeat", "select", "then", "time", "typeset", "until", "while"])  # fmt: skip
METACHARACTERS = [
    ";",
    "&",
    "|",
    "\n",
    "$x",
    "`x`",
    ">",
    "<",
    "(",
    ")",
    "*",
    "?",
    "[",
    "{",
    "}",
    "~",
    "#",
    "!",
    "^",
    "\r",
]


@given(st.lists(st.text("abc-/.", min_size=1, max_size=4), min_size=1, max_size=4), st.data())
def test_a_metacharacter_outside_quotes_is_never_accepted(words, data):
    policy = allow_commands([words[0], ...])
    line = shlex.join(words)
    at = data.draw(st.integers(0, len(line)))
    script = line[:at] + data.draw(st.sampled_from(METACHARACTERS)) + line[at:]
    assert not accepts(policy, in_shell(script))


# -- real shells as the oracle -------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["a", "b", "-", "=", ".", ",", " ", " ", "'", '"', "\\", "$", "*", "!", "#", "~", ";", "'x y'", '"x y"', "''", "%", "é"]
)  # fmt: skip


def argv_of(shell, script, directory):
    """Return the words that a shell splits a script into, with a function that only prints its arguments."""
    source = f"show() {{ printf '%s\\0' \"$@\"; }}\nshow {script}\n"
    done = subprocess.run(
        [shell, "-c", source], capture_output=True, cwd=directory, env={"LC_ALL": "C.UTF-8"}, timeout=10, check=False
    )  # fmt: skip
    return tuple(done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]), done.stderr


@pytest.mark.parametrize("shell", [shell for shell in ("bash", "dash", "zsh") if shutil.which(shell)])
def test_a_real_shell_splits_a_simple_command_in_the_same_way(shell, tmp_path):
    (tmp_path / "a").touch()  # a file that a glob pattern can match
    read = []

    @given(st.lists(PIECES, max_size=8).map("".join))
    @example('\'a\' "b\\"" c\\ d')
    @example('"\\a\\\\\\$"')
    @example("'' \"\" a''")
    def compare(script):
        # `show` comes first, so that nothing generated is executed.
        mine = simple_command(f"show {script}")
        if mine is None:
            return
        read.append(script)
        assert argv_of(os.fspath(shutil.which(shell)), script, tmp_path) == (mine[1:] or ("",), b"")

    compare()
    assert len(read) > 10


@given(script=st.lists(PIECES, max_size=8).map("".join))
def test_a_script_that_bash_cannot_parse_is_rejected(script):
    if simple_command(script) is not None:
        done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, timeout=10, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
