"""The subcommands of `prompt-tuning`, a module each.

A command module has `add_arguments(parser)` and `run(args)`; its docstring is
the help text. The imports are inside `run`, so that `--help` needs neither JAX
nor TensorFlow.
"""
