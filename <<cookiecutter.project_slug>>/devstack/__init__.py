"""The whole stack without Docker: for development (`make dev`) and for tests.

    with Stack(data=tmp_path) as stack:  # PostgreSQL, two Redis servers and an S3 server on free ports
        subprocess.run([...], env=stack.env)

It knows nothing of the application but its commands and its settings' names.
"""

from devstack.errors import StackError
from devstack.process import Process
from devstack.stack import NEIGHBOURS, SERVICES, USUAL_SERVICES, Stack

__all__ = ["NEIGHBOURS", "SERVICES", "USUAL_SERVICES", "Process", "Stack", "StackError"]
