"""What a user installs and imports."""

import json

import pytest
import torch

from openwork.compiler import constant
from tests.processes import run


@pytest.fixture(scope="module")
def core_only(tmp_path_factory):
    return json.loads(run("core_only", tmp_path_factory.mktemp("core")))


def test_torch_numpy_and_safetensors_are_enough_to_sparsify_and_prune_and_save(core_only):
    assert core_only["sparsified"] == 0.5
    assert core_only["pruned"]["0.weight"] == 0.75


def test_what_needs_more_says_what_to_install(core_only):
    assert core_only["said"].endswith('pip install "openwork[files]"')


def test_import_openwork_imports_nothing_else(core_only):
    assert core_only["alone"] == ["openwork"]


def test_a_public_name_imports_what_it_needs_alone(core_only):
    assert core_only["first"]["openwork.core.sparsify"]
    assert not core_only["first"]["openwork.public"]
    assert not core_only["first"]["openwork.inference.accelerate"]


def test_the_public_names_import_neither_the_compiler_nor_sympy(core_only):
    # Each takes as long as torch, which does without them until it compiles or exports.
    added = {name for name in core_only["added"] if name.startswith(("torch", "sympy", "mpmath", "networkx"))}
    assert added <= {"torch.utils"}


def test_a_constant_for_the_compiler_has_the_mark_of_torch():
    def function():
        return 1

    theirs = dict(vars(torch.compiler.assume_constant_result(function)))
    vars(function).clear()
    assert vars(constant(function)) == theirs != {}
