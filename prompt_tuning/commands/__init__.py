"""The subcommands of `prompt-tuning`, one module for each.

A command module has `run(args)`; its docstring is the help text, and
`flags.toml` has its flags. The imports are inside `run`, so that `--help` needs
neither JAX nor TensorFlow.
"""
