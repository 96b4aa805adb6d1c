"""Templates are read as a whole: either all are right, or every mistake is reported with its file and line."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stackd.config import Config, LimitsSection, StacksSection, TemplatesSection
from stackd.errors import ConfigError
from stackd.podspec import harden
from stackd.templates import Template, TemplateSet, read_templates
from stackd.templates.hiding import HIDDEN, hide
from stackd.templates.readers import matches, mistakes_in_env
from stackd.templates.template import MOST_DIGITS, generate_values, mistakes_in_values, why_too_much

POD = """\
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec:
    containers:
    - name: app
      image: nginx:stable
      env:
      - {name: GREETING, value: hello}
      ports: [{containerPort: 80}]
      resources: {limits: {cpu: 100m, memory: 64Mi}}
"""
PORTS = "target_port: [{container_port: 80, protocol: TCP}]\n"
WEB = PORTS + POD


def config(folder: Path, **sections: Any) -> Config:
    return Config(templates=TemplatesSection(directory=str(folder)), **sections)


def read(folder: Path, text: str = WEB, **sections: Any) -> Template:
    (folder / "web-1.yaml").write_text(text)
    return read_templates(config(folder, **sections))["web-1"]


def mistakes(folder: Path, text: str, **sections: Any) -> list[str]:
    """The mistakes in a file with this text, without the path of its folder."""
    with pytest.raises(ConfigError) as refusal:
        read(folder, text, **sections)
    return [mistake.removeprefix(f"{folder}/") for mistake in refusal.value.mistakes]


DESCRIPTION = """\
# Find it

Compute 2 * 3 * 4, then **read *the* `**code**`**
and see [there](https://example.org/a_b_c), not [here](javascript:alert(1)) or <b>here</b>.

- one
  - two
- ![a cat](https://example.org/cat.png)
"""


def test_a_description_is_read_as_markdown_and_is_nothing_but_known_elements(tmp_path: Path) -> None:
    def tag(name: str, *children: object, **more: str) -> dict[str, object]:
        return {"tag": name, "children": list(children), **more}

    template = read(tmp_path, WEB + f"description: {json.dumps(DESCRIPTION)}\n")
    code = tag("strong", "read ", tag("em", "the"), " ", tag("code", "**code**"))
    link = tag("a", "there", href="https://example.org/a_b_c")
    text = ", not [here](javascript:alert(1)) or <b>here</b>."
    assert template.about == (
        tag("h3", "Find it"),
        tag("p", "Compute 2 * 3 * 4, then ", code, "\n", "and see ", link, text),
        tag("ul", tag("li", "one", tag("ul", tag("li", "two"))), tag("li", "a cat")),
    )


def test_all_mistakes_of_all_files_but_hidden_ones_and_other_kinds_are_reported_in_order(tmp_path: Path) -> None:
    for name in (".web.yaml", "README.md", "web.yaml~", "web.yaml.bak"):
        (tmp_path / name).write_text("nonsense: [")
    (tmp_path / "b.yaml").write_text("a: [\n")
    (tmp_path / "c.yml").write_text(WEB)
    (tmp_path / "D_.yaml").write_text(WEB)
    (tmp_path / "e.yaml").write_text("")
    (tmp_path / "f.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "g.yaml").write_bytes(b"\xff")
    lines = mistakes(tmp_path, "ttll: 1h\n" + WEB.replace("name: app", "name: app\n      imagee: x"))
    assert [line[: len(start)] for line, start in zip(lines, STARTS, strict=True)] == STARTS


STARTS = [
    'D_.yaml: "D_" is not the name of a template', "c.yml: a template's file ends in .yaml", "b.yaml:2: ",
    "e.yaml: a template is expected", "f.yaml: the file cannot be read", "g.yaml: the file is not UTF-8",
    "web-1.yaml:1: ttll: ", "web-1.yaml:10: pod.spec.containers[0].imagee: ",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (POD, "web-1.yaml: target_port is missing"),
        ("services: {web: {image: nginx}}\n", "web-1.yaml:1: services: this is a Compose file"),
        (WEB.replace("protocol: TCP", "protocol: TCP, route: https"), "target_port[0].route: there are no names for"),
        (WEB.replace("container_port: 80", "container_port: 8"), "web-1.yaml:1: target_port[0]: no container of the"),
        (WEB.replace("- name: app", "- privileged: true\n      name: app"), "web-1.yaml:8: pod.spec.containers[0].pri"),
        (WEB + "ttl: 1h\nttl: 2h\n", "web-1.yaml:15: ttl: given twice (lines 14 and 15)"),
        (WEB + "closes: tomorrow\n", "web-1.yaml:14: closes: a time with its zone is expected"),
        (WEB + "opens: 2026-03-02T00:00Z\ncloses: 2026-03-02T01:00+01:00\n", "web-1.yaml:15: closes: a time after opens"),
        (WEB + "notice: 5m\n", "web-1.yaml:14: notice: there is no closes"),
        (WEB + "ttl: soon\n", "web-1.yaml:14: ttl: a duration"),
        (WEB + "policy: {run_as_roo: no}\n", 'run_as_roo: [policy] has no such key (did you mean "run_as_root"?)'),
        (WEB + "policy: {add_capabilities: [SYS_ADMIN]}\n", "web-1.yaml:14: policy.add_capabilities: SYS_ADMIN is not"),
        (WEB + "network: {egress: intranet}\n", 'web-1.yaml:14: network.egress: "none", "dns", "internet" or a list'),
        (WEB + "network: {egress: [10.0.0.1/8]}\n", "web-1.yaml:14: network.egress: 10.0.0.1/8 has host bits set"),
        (WEB + "values: {GREETING: <uuid>}\n", "web-1.yaml:14: values.GREETING: a container of the pod has this"),
        (WEB + "values:\n  FLAG: 'flag{<hexx:8>}'\n", "web-1.yaml:15: values.FLAG: <hexx:8> is not known"),
        (WEB + "values: {1-a: <uuid>}\n", "is not the name of a variable"),
        (WEB + "values: {" + "".join(f"A{n}: <uuid>, " for n in range(33)) + "}\n", "values: must be an object of at most 32"),
        (WEB + "a: [*a]\n", "web-1.yaml:14: a[0]: the alias"), (WEB + 'title: "a\\nb"\n', "web-1.yaml:14: title: a line of"),
        (WEB + f"description: {'é' * 4097}\n", "description: a text (Markdown) of at most 8192 bytes is expected"),
        (WEB + "values: {FLAG: <uuid>}\nshow: [FLAGS]\n", "web-1.yaml:15: show: FLAGS is none of its values"),
        (WEB + "extend: {by: 25h, times: 2}\n", "at most 86400 s (stacks.max_ttl)"),
        (WEB + "extend: {by: 1h, times: 0}\n", "web-1.yaml:14: extend.times: must be a whole number from 1 to 1000"),
        (WEB + "names: [my_db]\n", "web-1.yaml:14: names[0]: must be a host's name"),
        (WEB + "shared: true\npool: 2\n", "web-1.yaml:15: pool: a shared template has one stack, and no pool"),
        (WEB.replace("TCP}]", "TCP, node_port: 31000}]"), "web-1.yaml:1: target_port[0].node_port: only a shared template"),
        (WEB.replace("TCP}]", "TCP, hostname: web}]"), "target_port[0].hostname: a port with a route has a name"),
        (WEB + "check: {image: x, every: 1s}\n", "web-1.yaml:14: check: every: a duration from 10 s to 86400 s"),
        (WEB + "check: {imag: x}\n", 'web-1.yaml:14: check.imag: unknown field (did you mean "image"?)'),
        (WEB + "values: {A: <uuid>}\nenv: {A: {pattern: x}}\n", "web-1.yaml:15: env.A: the pod or the values have"),
        (WEB + "env: {TEAM: {pattern: '['}}\n", "web-1.yaml:14: env.TEAM.pattern: this is no pattern: unclosed"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, text: str, mistake: str) -> None:
    found = mistakes(tmp_path, text)
    assert any(mistake in one for one in found), found


def test_containers_find_each_other_by_names(tmp_path: Path) -> None:
    template = read(tmp_path, WEB + "names: [db, cache]\n")
    spec: Any = harden(template.spec.manifest, template.policy)["spec"]
    assert spec["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": ["db", "cache"]}]
    assert template.digest != read(tmp_path).digest
    assert "hostAliases" not in harden(
        read(tmp_path).spec.manifest, template.policy.model_copy(update={"host_names": ()})
    )


def test_ports_that_collide_are_refused_by_name_where_containers_have_names(tmp_path: Path) -> None:
    both = WEB + WEB.partition("containers:\n")[2].replace("name: app", "name: admin")
    assert mistakes(tmp_path, both + "names: [web, admin]\n") == [
        "web-1.yaml:18: pod.spec.containers[1].ports[0].containerPort: 80/TCP is also a port of app; "
        "containers of a pod share their ports"
    ]
    assert read(tmp_path, both).names == ()


@pytest.mark.parametrize(
    ("pattern", "fit", "others"),
    [
        ("[0-9]{1,4}", ("7", "0042"), ("", "12345", "7\n", " 7", "٣", "7a")),
        ("red|blue", ("red", "blue"), ("redblue", "red ", "r", "xblue")),
        ("(?:[a-f]{2}-){2}x+", ("ab-cd-xxx",), ("ab-cd-", "ab-cdx")), (r"a\.b", ("a.b",), ("axb",)),
        (".*", ("", "a" * 256), ("a" * 257, "a\nb", "a\x00")), ("(?:a*)*b", ("b", "a" * 255 + "b"), ("a" * 256,)),
    ],
)  # fmt: skip
def test_a_value_of_a_create_fits_its_pattern_as_a_whole(
    pattern: str, fit: tuple[str, ...], others: tuple[str, ...]
) -> None:
    assert not list(mistakes_in_env({"A": pattern}, ()))
    assert [matches(pattern, value) for value in fit] == [True] * len(fit)
    assert [matches(pattern, value) for value in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "1 to 100 characters"), ("x" * 101, "1 to 100 characters"), ("a)|(b", "no pattern: unopened group"),
        (r"\d+", "write [0-9] for a digit"), (r"(a)\1", "a backslash stands before punctuation only"),
        ("(?=a)b", "of groups there are"), ("(?i)a", "of groups there are"), ("(?P<x>a)", "of groups there are"),
        ("(?:(?:a{10}){10}){3}", "its counts repeat too much"), ("[0-9]{257}", "its counts repeat too much"),
        ("a{2,9999999}", "at most three digits"), ("a{,3}(", "at most three digits"), ("a{0000000100}", "three digits"),
        ("a{ 100 }", "a count is {N}"), ("a{1, 2}", "a count is {N}"), ("a{٣}", "a count is {N}"), ("a{", "a count is {N}"),
        ("(?:a{100}){100}", "its counts repeat too much"), ("a{100}{100}", "its counts repeat too much"),
        (r"[\]{100}]{300}", "its counts repeat too much"),
    ],
)  # fmt: skip
def test_a_pattern_that_may_cost_time_or_memory_is_a_mistake(pattern: str, why: str) -> None:
    ((path, text),) = mistakes_in_env({"A": pattern}, ())
    assert (path, why in text) == ("env.A.pattern", True), text


def test_all_patterns_of_a_template_may_cost_no_more_than_four_of_the_costliest() -> None:
    costliest = "(?:" + "." * 85 + "){25}"
    env = {f"A{number}": costliest + "x" * number for number in range(8)}
    assert not list(mistakes_in_env(dict(list(env.items())[:4]), ()))
    ((path, text),) = mistakes_in_env(env, ())
    assert (path, "more than 10240 in all" in text) == ("env", True), text


@pytest.mark.parametrize(
    "more",
    [f"{'x' * 50_000}: 1\n", f"network: {{egress: [{'x' * 50_000}]}}\n", f"values: {{{'x ' * 25_000}: <uuid>}}\n"],
)
def test_a_mistake_repeats_only_the_beginning_of_a_text(tmp_path: Path, more: str) -> None:
    (only,) = mistakes(tmp_path, WEB + more)
    assert len(only) < 1500


def test_no_mistake_tells_what_a_pod_holds(tmp_path: Path) -> None:
    text = WEB.replace("value: hello", "value: [s3cret]") + "ttl: s3cret\nlabels: {a: 's3cret s3cret'}\n"
    assert not [one for one in mistakes(tmp_path, text) if "s3cret" in one]


def test_a_folder_or_file_that_cannot_be_read_and_long_ones_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"templates.directory: .*nowhere cannot be read: No such file or directory"):
        read_templates(config(tmp_path / "nowhere"))
    assert mistakes(tmp_path, WEB + "# " + "x" * (1 << 20)) == ["web-1.yaml: the file is longer than 1048576 bytes"]
    long = WEB.replace("value: hello", f"value: {'x' * 2000}")
    assert mistakes(tmp_path, long, limits=LimitsSection(pod_spec=1024)) == [
        "web-1.yaml:2: pod: the text is longer than 1024 bytes (limits.pod_spec)"
    ]


def test_the_digest_changes_only_with_what_makes_a_pod(tmp_path: Path) -> None:
    digest = read(tmp_path).digest
    for changed in (
        WEB.replace("hello", "bye"),
        WEB.replace("protocol: TCP", "protocol: UDP").replace("containerPort: 80", "containerPort: 80, protocol: UDP"),
        WEB + "values: {FLAG: <uuid>}\n",
        WEB + "policy: {run_as_root: false}\n",
        WEB + "policy: {labels: {a: b}}\n",
    ):
        assert read(tmp_path, changed).digest != digest, changed
    for stacks in ({"node_selector": {"a": "b"}}, {"readiness": "tcp"}, {"restart_policy": "Always"}):
        assert read(tmp_path, stacks=StacksSection.model_validate(stacks)).digest != digest, stacks
    same = WEB.replace("{name: GREETING, value: hello}", '{"value": "hello", "name": GREETING}  # the same')
    assert read(tmp_path, same + "pool: 3\nttl: 1h\nlabels: {a: b}\nprepull: true\n").digest == digest


def test_a_pod_spec_of_the_same_text_is_served_from_the_pool_only_where_it_gets_the_same_pod(tmp_path: Path) -> None:
    plain = read(tmp_path, WEB + "pool: 1\n")
    others = [
        read(tmp_path, WEB),
        read(tmp_path, WEB + "pool: 1\nvalues: {FLAG: <uuid>}\n"),
        read(tmp_path, WEB + "pool: 1\npolicy: {drop_capabilities: [ALL]}\n"),
    ]
    assert TemplateSet([plain]).pooled_as(plain.spec, plain.target_ports) is plain
    assert TemplateSet([plain]).pooled_as(plain.spec, ()) is None
    assert not [one for one in others if TemplateSet([one]).pooled_as(one.spec, one.target_ports)]
    second = replace(plain, name="a")
    assert TemplateSet([plain, second]).pooled_as(plain.spec, plain.target_ports) is second


# ---- Values that are generated for each stack


@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        ("<hex:1>", r"[0-9a-f]"), (f"<hex:{MOST_DIGITS}>", r"[0-9a-f]{256}"), ("<base32:20>", r"[A-Z2-7]{20}"),
        ("<uuid>", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
        ("flag{<hex:4>_<base32:4>}", r"flag\{[0-9a-f]{4}_[A-Z2-7]{4}\}"),
        ("a < b <hex:2> c > d", r"a < b [0-9a-f]{2} c > d"),
    ],
)  # fmt: skip
def test_a_pattern_makes_a_value_of_its_form(pattern: str, form: str) -> None:
    assert not mistakes_in_values({"A": pattern}, ())
    values = [generate_values({"A": pattern})["A"] for _ in range(50)]
    assert all(re.fullmatch(form, value) for value in values)
    if len(values[0]) > 20:
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        *((one, f"{one} is not known") for one in ("<hex>", "<hex:0>", "<hex:-1>", "<hex:٣>", "<HEX:3>", "<uuid:4>")),
        ("<hex:257>", "<hex:257> is too long; N is 256 at most"), ("flag", "it has no placeholder"),
        ("<hex:3>" + "x" * 1024, "has 1031 characters; 1024 at most"), (7, "must be a string"),
    ],
)  # fmt: skip
def test_anything_else_is_a_mistake_that_names_what_there_is(pattern: object, sentence: str) -> None:
    ((name, text),) = mistakes_in_values({"FLAG": pattern}, ())
    assert (name, sentence in text) == ("FLAG", True), text


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ({f"A{number}": "<hex:256>" * 2 for number in range(32)}, None),
        ({"A": "<hex:256>" * 63 + "<hex:255>ä"}, "16385 bytes; 16384 at most"),
        ({f"A{number}": "<hex:256>" * 113 for number in range(32)}, "they would be 925696 bytes; 16384 at most in all"),
        ({"A": "<hex:1>" * 64}, None),
        ({"A": "<hex:1>" * 64, "B": "<uuid>"}, "65 generated parts; 64 at most in all"),
        ({"A": "<uuid>" + "-12345f" * 64}, "65 generated parts"),
    ],
    ids=["most bytes", "one more", "113 of 256", "most parts", "another part", "constants that look generated"],
)
def test_all_values_of_a_stack_are_bounded(tmp_path: Path, patterns: dict[str, str], why: str | None) -> None:
    text = WEB + f"values: {json.dumps(patterns)}\n"
    if why is None:
        assert set(read(tmp_path, text).generate()) == set(patterns)
        return
    (only,) = mistakes(tmp_path, text)
    assert ("web-1.yaml:14: values: " in only, why in only) == (True, True), only


def test_the_values_in_all_containers_of_a_pod_are_bounded(tmp_path: Path) -> None:
    other = "    - {{name: other-{}, image: b, resources: {{limits: {{cpu: 1m, memory: 1Mi}}}}}}\n"
    others = "".join(other.format(number) for number in range(4))
    values = 'values: {A: "' + "<hex:256>" * 63 + '"}\n'
    assert read(tmp_path, WEB + values).values
    (only,) = mistakes(tmp_path, WEB + others + values)
    assert "values: they would be 16128 bytes in each of 5 containers; 65536 at most in all of these" in only


@pytest.mark.parametrize("text", ["ordinary words and 42 numbers of a log\n", "a", "%61"])
@pytest.mark.parametrize("pattern", ["<hex:6>-<hex:6>.", "a" * 480 + "<base32:8>-12345f"])
def test_the_longest_log_is_cleared_of_the_most_values_quickly(text: str, pattern: str) -> None:
    patterns = {f"A{number}": pattern for number in range(32)}
    assert not why_too_much(patterns)
    values = generate_values(patterns)
    log = (text * (1 << 20))[: 1 << 20]
    started = time.thread_time()
    assert HIDDEN in hide(f"{log} {values['A31']}", values)
    assert time.thread_time() - started < 5
