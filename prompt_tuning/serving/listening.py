"""The ports that servers listen on, alone or together."""

import socket


def listen(host: str, port: int, is_shared: bool = False) -> socket.socket:
  """Binds a port.

  Args:
    host: An address of this machine.
    port: The port; 0 for a free one.
    is_shared: Whether other processes may bind it, too. Each connection then
      goes to one that listens, which the returned socket does not do yet.

  Raises:
    ValueError: if the port is not free, or this machine has no such address.
  """
  if not 0 <= port < 2**16:
    raise ValueError(f"Expected --port from 0 to 65535, got {port}.")
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    if not is_shared:
      return socket.create_server((host, port), family=family)
    shared = socket.socket(family)
    options = [
      (socket.SOL_SOCKET, socket.SO_REUSEADDR),
      (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    ]
    if family == socket.AF_INET6:  # As in `create_server`.
      options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    for level, option in options:
      shared.setsockopt(level, option, 1)
    shared.bind((host, port))
    return shared
  except OSError as error:
    message = f"--host={host} --port={port} cannot be used: {error}."
    raise ValueError(message) from None
