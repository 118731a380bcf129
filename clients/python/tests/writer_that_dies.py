"""Begins a write, commits to its database (a file), and dies before it says so: run by test_races."""

import os
import pathlib
import sys

from grapevine_client import Client

endpoint, class_path, database, lease_s = sys.argv[1:]
write = Client(endpoint).begin_write([class_path], lease_s=float(lease_s)).begin()
assert write.remaining_s > 0
pathlib.Path(database).write_text("new")
os._exit(9)
