"""The router's Faust app: ``faust -A topologies.router worker``."""

from walstream.router.app import make_router
from walstream.worker import load

app = load(make_router)
